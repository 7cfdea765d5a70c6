package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/bootguard"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
	"github.com/sidestep-agent/sidestep/test/lab"
)

const head = "apiVersion: sidestep.dev/v1alpha1\nkind: AgentConfiguration\n"

// booted returns a node on which the kubelet has not run yet.
func booted(t *testing.T) guard {
	t.Helper()
	n, err := lab.NewNode(t.TempDir())
	check(t, err)
	t.Cleanup(func() {
		// Close wants a node on which the kubelet has run.
		if err := errors.Join(os.MkdirAll(n.Kubepods, 0o755), n.Close()); err != nil {
			t.Errorf("the lab is not clean: %v", err)
		}
	})
	check(t, boots(n))
	forgetLine(t)
	dir := t.TempDir()
	return guard{node: n, stateDir: filepath.Join(dir, "state"), config: filepath.Join(dir, "boot.yaml")}
}

// forgetLine removes the second line when the test ends, as a node's end does:
// the tests share a network namespace.
func forgetLine(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		left, err := routeguard.Leftovers()
		check(t, err)
		for _, l := range left {
			check(t, l.Remove())
		}
	})
}

// tries has a process of a new pod try.
func (g guard) tries(t *testing.T, hostNetwork bool) tried {
	t.Helper()
	p, err := g.node.StartPod(lab.PodOptions{HostNetwork: hostNetwork})
	check(t, err)
	t.Cleanup(func() { check(t, p.Stop()) })
	got, err := lab.Run[struct{}, tried](t.Context(), p, "dial", struct{}{})
	check(t, err)
	return got
}

// What the boot guard does with pods of both kinds is what the agent would do
// with pods that it does not know.
func TestAttach(t *testing.T) {
	needProgram(t)
	passes := tried{served, sent}
	for name, tt := range map[string]struct {
		config  string // none: empty
		flags   []string
		pod     tried
		onHosts tried // a pod on the node's network
	}{
		"default":                  {config: head, pod: tried{refused, eperm}, onHosts: tried{served, eperm}},
		"no configuration":         {pod: tried{refused, eperm}, onHosts: tried{served, eperm}},
		"a bad configuration":      {config: head + "mode: audt\n", pod: tried{refused, eperm}, onHosts: tried{served, eperm}},
		"mode: audit":              {config: head + "mode: audit\n", pod: passes, onHosts: passes},
		"unknown: pass":            {config: head + "unknown: pass\n", pod: tried{served, eperm}, onHosts: tried{served, eperm}},
		"unknownHostNetwork: hold": {config: head + "unknownHostNetwork: hold\n", pod: tried{refused, eperm}, onHosts: tried{eperm, eperm}},
		"--guard=off":              {config: head, flags: []string{"--guard=off"}, pod: tried{refused, sent}, onHosts: passes},
	} {
		t.Run(name, func(t *testing.T) {
			g := booted(t)
			metadata := serveIMDS(t)
			if tt.config != "" {
				check(t, os.WriteFile(g.config, []byte(tt.config), 0o600))
			}
			out, err := run(g.command(tt.flags...)...)
			check(t, err)
			if bad := strings.Contains(out, "without a configuration"); bad != (tt.config == "" || name == "a bad configuration") {
				t.Errorf("it said %s", out)
			}
			if got := g.tries(t, false); got != tt.pod {
				t.Errorf("a pod: %+v, want %+v", got, tt.pod)
			}
			if asked := metadata.asked.Load(); (asked == 0) != (tt.pod.Connect != served) {
				t.Errorf("the metadata service was asked %d times", asked)
			}
			if got := g.tries(t, true); got != tt.onHosts {
				t.Errorf("a pod on the node's network: %+v, want %+v", got, tt.onHosts)
			}
			// This process is outside of kubepods.
			if got, err := dial(struct{}{}); err != nil || got != passes {
				t.Errorf("a process of the node: %+v, %v, want %+v", got, err, passes)
			}
			if state, err := (bootguard.Files{StateDir: g.stateDir}).Current(); state != bootguard.Held || err != nil {
				t.Errorf("noted: %q, %v", state, err)
			}
		})
	}
}

// Each capability that the unit leaves is needed, and no other.
func TestNeededCapabilities(t *testing.T) {
	needProgram(t)
	needed := preflight.NeededForBootGuard()
	limited := func(t *testing.T, without string) error {
		g := booted(t)
		bounding := "-all"
		for _, c := range needed {
			if c.Name != without {
				bounding += ",+" + strings.ToLower(strings.TrimPrefix(c.Name, "CAP_"))
			}
		}
		_, err := run(append([]string{"setpriv", "--bounding-set", bounding, "--no-new-privs", "--"}, g.command()...)...)
		if err == nil {
			if got := g.tries(t, false); got.Connect != refused {
				t.Errorf("a pod: %+v", got)
			}
		}
		return err
	}
	if err := limited(t, ""); err != nil {
		t.Errorf("with those needed: %v", err)
	}
	for _, c := range needed {
		t.Run("without "+c.Name, func(t *testing.T) {
			if err := limited(t, c.Name); err == nil {
				t.Error("works as well")
			}
		})
	}
}

// Where it cannot do its work it says so by its status, and does none of it.
func TestAttachFails(t *testing.T) {
	needProgram(t)
	g := booted(t)
	for name, flags := range map[string][]string{
		"no cgroup v2":            {"--cgroup-root", t.TempDir()},
		"no BPF filesystem":       {"--bpffs", t.TempDir()},
		"no kubepods to be found": {"--kubepods-cgroup", ""},
		"kubepods elsewhere":      {"--kubepods-cgroup", filepath.Dir(g.node.CgroupRoot) + "/elsewhere"},
	} {
		out, err := run(g.command(flags...)...)
		if err == nil {
			t.Errorf("%s: no error: %s", name, out)
		}
		if state, err := (bootguard.Files{StateDir: g.stateDir}).Current(); state != bootguard.Absent || err != nil {
			t.Errorf("%s: noted: %q, %v", name, state, err)
		}
	}
}
