package preflight

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

func capabilities(o Options) Result {
	const name = "capabilities"
	effective, err := capEff(filepath.Join(o.Proc, "self/status"))
	if err != nil {
		return fail(name, "mount /proc and set --proc to it", "cannot be read: %v", err)
	}
	var have, missing []string
	for _, c := range o.Capabilities {
		if effective&(1<<c.Number) == 0 {
			missing = append(missing, c.Name)
		} else {
			have = append(have, c.Name)
		}
	}
	if len(missing) > 0 {
		// In manifests they are named without CAP_.
		add := strings.ReplaceAll(strings.Join(missing, ", "), "CAP_", "")
		return fail(name, "add to the container's securityContext.capabilities.add: "+add+
			"; and let the pod's user be root", "missing: %s", strings.Join(missing, ", "))
	}
	return ok(name, "%s", strings.Join(have, ", "))
}

// capEff reads the effective capability set from a /proc/<pid>/status (proc(5)).
func capEff(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(set), 16, 64)
		}
	}
	return 0, errors.New("no CapEff in " + path)
}

// appArmor wants no profile: the runtimes' default one forbids writes to the
// BPF filesystem and reading the namespaces of unconfined pods.
func appArmor(o Options) Result {
	const name = "AppArmor"
	enabled, err := os.ReadFile(filepath.Join(o.Sys, "module/apparmor/parameters/enabled"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(enabled)) != "Y" {
		return ok(name, "not active")
	}
	const fix = "set securityContext.appArmorProfile.type: Unconfined on the agent's container"
	// The module's own file: the common one, attr/current, may be another
	// security module's.
	profile, err := os.ReadFile(filepath.Join(o.Proc, "self/attr/apparmor/current"))
	if err != nil {
		return fail(name, fix, "profile cannot be read: %v", err)
	}
	label := trimLabel(profile)
	if label != "unconfined" && !strings.HasSuffix(label, " (complain)") {
		return fail(name, fix, "confined by %s", label)
	}
	return ok(name, "%s", label)
}

// seLinux wants the type for privileged containers, which alone may call bpf()
// and enter other containers' namespaces. Whether SELinux is on follows from the
// process having a context, since selinuxfs is not mounted in containers; it
// is taken to enforce unless selinuxfs is there and says otherwise.
func seLinux(o Options) Result {
	const name = "SELinux"
	context, err := os.ReadFile(filepath.Join(o.Proc, "self/attr/current"))
	fields := strings.Split(trimLabel(context), ":") // user:role:type[:level]
	if err != nil || len(fields) < 3 || fields[0] == "" {
		return ok(name, "not active")
	}
	enforce, err := os.ReadFile(filepath.Join(o.Sys, "fs/selinux/enforce"))
	if err == nil && strings.TrimSpace(string(enforce)) == "0" {
		return ok(name, "permissive")
	}
	switch domain := fields[2]; domain {
	case "spc_t", "unconfined_t": // unconfined_t: a root shell on the node
		return ok(name, "%s", domain)
	default:
		return fail(name, "set securityContext.seLinuxOptions.type: spc_t on the agent's container",
			"confined as %s", domain)
	}
}

func trimLabel(b []byte) string { return strings.TrimRight(string(b), "\x00\n") }
