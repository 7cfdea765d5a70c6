package e2e

import (
	"encoding/json"
	"regexp"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// The agent has what its manifest gives, and no more, in both deliveries; and
// with that it does its work.
func TestPrivileges(t *testing.T) {
	needNode(t)
	checkPrivileges(t)
	t.Cleanup(func() { install(t, "base") })
	web := pod{namespace: teamA, name: "delivered", account: "app-one", labelled: true, token: newVolume}
	legacy := pod{namespace: teamC, name: "delivered", account: "default"}
	host := pod{namespace: hostNamespace, name: "delivered", account: "app-two", labelled: true, token: newVolume, hostNetwork: true}
	start(t, web, legacy, host)
	install(t, "overlays/node-delivery")
	checkPrivileges(t)
	web.becomes(t, "app-one")
	for _, tt := range []struct {
		pod        pod
		flag, want string
	}{
		{web, "-mapped", "app-one"}, {host, "-bare=false", "app-two"}, {legacy, "-bare=false", nodes},
	} {
		if got := tt.pod.who(t, tt.flag); got != tt.want {
			t.Errorf("%s/%s %s gets %q, want %q", tt.pod.namespace, tt.pod.name, tt.flag, got, tt.want)
		}
	}
	if got := useVault(t, teamA, web.name); got.Vault != "ok" {
		t.Errorf("the vault: %+v", got)
	}
	// The price, as the overlay says it: the connection leaves the pod.
	rules(t, nil, "-I INPUT -i veth+ -j DROP")
	if got := web.who(t, "-timeout=1s"); got == "app-one" || got == nodes {
		t.Errorf("behind a default-deny NetworkPolicy it gets %q, want nothing", got)
	}
}

var capabilityNumbers = map[corev1.Capability]int{
	"BPF": unix.CAP_BPF, "PERFMON": unix.CAP_PERFMON, "NET_ADMIN": unix.CAP_NET_ADMIN,
	"SYS_ADMIN": unix.CAP_SYS_ADMIN, "SYS_PTRACE": unix.CAP_SYS_PTRACE, "DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH,
}

var statusLine = regexp.MustCompile(`(?m)^(Cap(?:Prm|Eff|Bnd)|Seccomp):\t(\S+)$`)

// checkPrivileges compares the running agent's capabilities, as the kernel has
// them, with those of the pod that the API server has.
func checkPrivileges(t *testing.T) {
	t.Helper()
	var given corev1.Capabilities
	added := kubectl(t, "-n", system, "get", "daemonset", "sidestep-agent",
		"-o", "jsonpath={.spec.template.spec.containers[0].securityContext.capabilities}")
	if err := json.Unmarshal([]byte(added), &given); err != nil {
		t.Fatal(err)
	}
	var want uint64
	for _, c := range given.Add {
		number, ok := capabilityNumbers[c]
		if !ok {
			t.Errorf("the manifest gives %s, which this test does not know", c)
		}
		want |= 1 << number
	}
	status := inNode(t, "cat", "/proc/"+agentProcess(t)+"/status")
	lines := statusLine.FindAllStringSubmatch(status, -1)
	if len(lines) != 4 {
		t.Fatalf("status of the one process that is the agent: %q", lines)
	}
	for _, line := range lines {
		base, expected := 16, want
		if line[1] == "Seccomp" {
			base, expected = 10, unix.SECCOMP_MODE_FILTER
		}
		if got, err := strconv.ParseUint(line[2], base, 64); err != nil || got != expected {
			t.Errorf("%s of the agent is %s, want %#x (%v)", line[1], line[2], expected, given.Add)
		}
	}
}
