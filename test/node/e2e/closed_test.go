package e2e

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/test/faults/row"
	standin "github.com/sidestep-agent/sidestep/test/standins/imds"
)

// dropped is what a pod gets whose packets nobody answers.
const dropped = "no answer"

// The recommended set-up of docs/closed.md, with the rule as it stands there:
// what each kind of pod gets before any agent has run, beside the agent, and
// while it is dead.
func TestFaultClosedFromTheFirstPacket(t *testing.T) {
	needNode(t)
	neverThere(t)
	t.Cleanup(func() { install(t, "base") })
	restrict(t)
	asked := sinceNow[standin.Entry](t, "imds")
	web := pod{namespace: teamA, name: "closed", account: "app-one", labelled: true, token: newVolume}
	plain := pod{namespace: teamC, name: "closed-plain", account: "default"}
	exempt := pod{namespace: "kube-system", name: "closed-exempt", account: "default", labels: map[string]string{"kubernetes.azure.com/managedby": "aks"}}
	host := pod{namespace: hostNamespace, name: "closed-host", account: "default", hostNetwork: true}
	start(t, web, plain, exempt, host)
	saw := wantEach(t, "never there", map[*pod]string{&web: dropped, &plain: dropped, &exempt: dropped, &host: nodes})

	install(t, "overlays/recommended")
	web.becomes(t, "app-one")
	host.becomes(t, refused)
	saw += "; " + wantEach(t, "alive", map[*pod]string{&web: "app-one", &plain: refused, &exempt: dropped, &host: refused})
	if got := web.get(t, imds+"/metadata/instance?api-version=2021-02-01"); got.Status != 200 {
		t.Errorf("the labelled pod gets %+v, want the node's metadata", got)
	}

	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-agent")
	kubectl(t, "-n", system, "wait", "--for=delete", "pods", "-l", agentPods, "--timeout=60s")
	late := web
	late.name = "closed-late"
	start(t, late)
	saw += "; " + wantEach(t, "dead", map[*pod]string{&web: refused, &late: refused, &plain: refused, &exempt: dropped, &host: refused})
	t.Log(row.Row{
		Fault:    "no agent has ever run, runs, or is dead, with the rule of docs/closed.md",
		Expected: "no pod outside the node's network gets the node's identity; labelled ones their own",
		Seen:     saw,
	})
	for _, e := range asked() {
		if e.Identity && strings.HasPrefix(e.Remote, "10.244.") {
			t.Errorf("the metadata service was asked %s by a pod, %s", e.URI, e.Remote)
		}
	}
}

// wantEach has each pod ask for a token, and returns what they got.
func wantEach(t *testing.T, agent string, want map[*pod]string) string {
	t.Helper()
	var saw []string
	for p, want := range want {
		got := p.who(t, "-timeout=3s")
		switch {
		case strings.Contains(got, "deadline exceeded"), strings.Contains(got, "timeout"):
			got = dropped
		case strings.Contains(got, "connection refused"): // a pod not known, with no agent
			got = refused
		}
		if saw = append(saw, p.name+" "+got); got != want {
			t.Errorf("agent %s: %s gets %q, want %q", agent, p.name, got, want)
		}
	}
	slices.Sort(saw)
	return "agent " + agent + ": " + strings.Join(saw, ", ")
}

var nftBlock = regexp.MustCompile("(?s)```\n(table inet imds_restriction .*?)```")

// restrict loads the rule of the page on the node until the test ends.
func restrict(t *testing.T) {
	t.Helper()
	page, err := os.ReadFile("../../../docs/closed.md")
	if err != nil {
		t.Fatal(err)
	}
	rule := nftBlock.FindSubmatch(page)
	if rule == nil {
		t.Fatal("the page has no rule")
	}
	if _, err := tryInNode(rule[1], "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inNode(t, "nft", "delete", "table", "inet", "imds_restriction") })
}

// neverThere takes everything of Sidestep from the node, as if it had never been
// there.
func neverThere(t *testing.T) {
	t.Helper()
	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-agent")
	kubectl(t, "-n", system, "wait", "--for=delete", "pods", "-l", agentPods, "--timeout=60s")
	kubectl(t, "apply", "-k", manifest(t, "uninstall"))
	kubectl(t, "-n", system, "rollout", "status", "daemonset/sidestep-uninstall", "--timeout=80s")
	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-uninstall")
	removePermission(t)
}
