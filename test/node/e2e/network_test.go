package e2e

import (
	"strings"
	"testing"
)

// rules adds iptables rules, lines as of iptables without -w, and removes them
// when the test ends. where is a command that leads to a network namespace,
// such as nsenter; empty: the node's. Nothing outside of the rig is touched:
// exec.sh makes sure of it.
func rules(t *testing.T, where []string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		inNode(t, append(append(where[:len(where):len(where)], "iptables", "-w"), strings.Fields(line)...)...)
	}
	for i := range lines {
		undo := undone(strings.Fields(lines[len(lines)-1-i]))
		t.Cleanup(func() {
			_, _ = tryInNode(nil, append(append(where[:len(where):len(where)], "iptables", "-w"), undo...)...)
		})
	}
}

// undone returns the arguments that take a rule or a chain back.
func undone(arguments []string) []string {
	var undo []string
	for i, a := range arguments {
		switch a {
		case "-A", "-I":
			a = "-D"
		case "-N":
			return append(undo, "-X", arguments[i+1])
		}
		undo = append(undo, a)
	}
	return undo
}

// intoPod leads to the pod's network namespace.
func intoPod(t *testing.T, p pod) []string {
	t.Helper()
	pids := strings.Fields(inNode(t, "bash", "-c",
		"find /sys/fs/cgroup/kubepods -path '*pod"+p.uid(t)+"/*' -name cgroup.procs -exec cat {} +"))
	if len(pids) == 0 {
		t.Fatalf("%s has no process", p.name)
	}
	return []string{"nsenter", "--target", pids[0], "--net"}
}

// With pod delivery no packet leaves the pod: what drops or redirects packets
// on the node changes nothing for labelled pods. That the rules are applied
// shows an unlabelled pod.
func TestPacketRulesOnTheNode(t *testing.T) {
	needNode(t)
	web := pod{namespace: teamA, name: "behind-rules", account: "app-one", labelled: true, token: newVolume}
	legacy := pod{namespace: teamC, name: "behind-rules", account: "default"}
	start(t, web, legacy)
	for _, tt := range []struct {
		name  string
		rules []string
	}{
		{"default-deny NetworkPolicy, dropping at pods' links", []string{
			"-I INPUT -i veth+ -j DROP", "-I FORWARD -i veth+ -j DROP", "-I OUTPUT -o veth+ -j DROP",
		}},
		{"NMI: DNAT to an agent that is no more", []string{
			"-t nat -N aad-metadata",
			"-t nat -A aad-metadata ! -s 127.0.0.1 -d 169.254.169.254 -p tcp --dport 80 -j DNAT --to-destination 10.224.0.4:2579",
			"-t nat -I PREROUTING -j aad-metadata",
		}},
		{"IMDS restriction: metadata dropped", []string{
			"-t mangle -I PREROUTING -i veth+ -d 169.254.169.254 -p tcp --dport 80 -j DROP",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := legacy.who(t); got != nodes {
				t.Fatalf("before: an unlabelled pod gets %q, want %q", got, nodes)
			}
			rules(t, nil, tt.rules...)
			if got := web.who(t); got != "app-one" {
				t.Errorf("a labelled pod gets %q, want app-one", got)
			}
			if got := legacy.who(t, "-timeout=500ms"); got == nodes {
				t.Error("the rules are not applied: an unlabelled pod reaches the metadata service")
			}
		})
	}
}

// A pod that the webhook gave the proxy sidecar and its init container's rules
// gets its token from the agent, and its sidecar is left aside.
func TestPodWithTheSidecarsRules(t *testing.T) {
	needNode(t)
	const sidecar = "127.0.0.1:8000"
	web := pod{
		namespace: teamA, name: "with-sidecar", account: "app-one", labelled: true, token: newVolume,
		args: []string{"serve", sidecar, "the sidecar"},
	}
	legacy := web
	legacy.name, legacy.labelled = "with-sidecar-unlabelled", false
	start(t, web, legacy)
	for _, p := range []pod{web, legacy} {
		rules(t, intoPod(t, p),
			"-t nat -N AZWI_PROXY_OUTPUT", "-t nat -N AZWI_PROXY_REDIRECT",
			"-t nat -A AZWI_PROXY_REDIRECT -p tcp -j REDIRECT --to-port 8000",
			"-t nat -A OUTPUT -p tcp -d 169.254.169.254 --dport 80 -j AZWI_PROXY_OUTPUT",
			"-t nat -A AZWI_PROXY_OUTPUT -j AZWI_PROXY_REDIRECT")
	}
	if got := web.who(t); got != "app-one" {
		t.Errorf("gets %q, want app-one", got)
	}
	if got := legacy.get(t, instanceName); got.Body != "the sidecar" {
		t.Errorf("the rules are not applied: an unlabelled pod is answered %+v", got)
	}
}
