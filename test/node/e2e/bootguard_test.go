package e2e

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	standin "github.com/sidestep-agent/sidestep/test/standins/imds"
)

const (
	bootUnit     = "/etc/systemd/system/sidestep-boot-guard.service"
	bootUnitLink = "/etc/systemd/system/kubelet.service.wants/sidestep-boot-guard.service"
	bootPods     = "app.kubernetes.io/name=sidestep-uninstall-boot-guard"
)

// A node with the boot guard reboots, and the agent's image is not to be had at
// first. Pods that were bound to it start and ask for tokens: they are refused
// until the agent runs, and then have what is theirs. What starts the boot
// guard is the command of the unit that is on the node.
func TestBootGuard(t *testing.T) {
	needNode(t)
	inNode(t, "mkdir", "-p", "/etc/systemd/system") // the rig's machine may have no systemd
	install(t, "overlays/boot-guard")
	t.Cleanup(func() {
		install(t, "base")
		kubectl(t, "apply", "-k", manifest(t, "uninstall-boot-guard"))
		kubectl(t, "-n", system, "rollout", "status", "daemonset/sidestep-uninstall-boot-guard", "--timeout=60s")
		kubectl(t, "delete", "-k", manifest(t, "uninstall-boot-guard"))
	})
	started := bootCommand(t)
	asking := []string{"get", "-every=200ms", "-timeout=40s", tokenPath + url.QueryEscape(vaultURL)}
	web := pod{namespace: teamA, name: "booted", account: "app-one", labelled: true, token: newVolume, args: asking}
	plain := pod{namespace: teamC, name: "booted-plain", account: "default", args: asking}
	start(t, web, plain)
	web.last(t, "app-one")
	plain.last(t, nodes)

	switchOff(t)
	show := hideImage(t)
	asked := sinceNow[standin.Entry](t, "imds")
	t.Log(inNode(t, "bash", "-c", started+" 2>&1"))
	made := inNode(t, "stat", "-c", "%i", "/sys/fs/cgroup/kubepods")
	switchOn(t)
	for _, p := range []pod{web, plain} {
		p.isRefused(t, 5)
	}
	for _, e := range asked() {
		if strings.HasPrefix(e.Remote, "10.244.") {
			t.Errorf("before the agent ran the metadata service was asked %s by a pod, %s", e.URI, e.Remote)
		}
	}
	show()
	rolledOut(t)
	web.last(t, "app-one")
	plain.last(t, nodes)
	for p, want := range map[*pod]string{&web: "app-one", &plain: nodes} {
		p.wasRefusedUntil(t, want)
	}
	if now := inNode(t, "stat", "-c", "%i", "/sys/fs/cgroup/kubepods"); now != made {
		t.Errorf("the kubelet has put %s in the place of the pods' cgroup, %s", now, made)
	}
	if r := agentStatus(t); r.BootGuard != "held at this boot" || len(r.Problems) != 0 {
		t.Errorf("the agent reports %q, %q", r.BootGuard, r.Problems)
	}
	t.Run("uninstall", testBootGuardUninstall)
}

// bootCommand returns the command that the node's systemd would run at boot, as
// the overlay's container has written it, and checks that it would.
func bootCommand(t *testing.T) string {
	t.Helper()
	if target := strings.TrimSpace(inNode(t, "readlink", bootUnitLink)); target != bootUnit {
		t.Errorf("the unit is not enabled: %q", target)
	}
	if kept := inNode(t, "cat", "/var/lib/sidestep/boot.yaml"); !strings.Contains(kept, "mode: enforce\n") {
		t.Errorf("what it shall obey: %s", kept)
	}
	unit := inNode(t, "cat", bootUnit)
	for line := range strings.Lines(unit) {
		if command, ok := strings.CutPrefix(line, "ExecStart="); ok {
			return strings.TrimSpace(command)
		}
	}
	t.Fatalf("no command in the unit:\n%s", unit)
	return ""
}

// said returns all answers that the pod's container has logged.
func (p pod) said(t *testing.T) []answer {
	t.Helper()
	out, err := tryInNode(nil, "kubectl", "-n", p.namespace, "logs", p.name)
	if err != nil {
		return nil // it does not run yet
	}
	return answers(t, out)
}

// last waits until the pod's last answer is whose it shall be.
func (p pod) last(t *testing.T, want string) {
	t.Helper()
	eventually(t, 90*time.Second, func() error {
		all := p.said(t)
		if len(all) == 0 || all[len(all)-1].whose() != want {
			return fmt.Errorf("%s has no %q among its %d answers", p.name, want, len(all))
		}
		return nil
	})
}

func (a answer) isRefusal() bool {
	return a.whose() == refused || strings.Contains(a.Error, "connection refused")
}

// isRefused waits until the pod has been refused so often, and nothing else.
func (p pod) isRefused(t *testing.T, times int) {
	t.Helper()
	eventually(t, 90*time.Second, func() error {
		all := p.said(t)
		for _, a := range all {
			if !a.isRefusal() {
				return fmt.Errorf("%s gets %q", p.name, a.whose())
			}
		}
		if len(all) < times {
			return fmt.Errorf("%s has asked %d times", p.name, len(all))
		}
		return nil
	})
}

// wasRefusedUntil fails unless all answers since the boot are refusals, and
// then all are what is wanted.
func (p pod) wasRefusedUntil(t *testing.T, want string) {
	t.Helper()
	all := p.said(t)
	refusals := 0
	for refusals < len(all) && all[refusals].isRefusal() {
		refusals++
	}
	for _, a := range all[refusals:] {
		if a.whose() != want {
			t.Errorf("%s gets %q", p.name, a.whose())
		}
	}
	t.Logf("%s: refused %d times, then %q %d times", p.name, refusals, want, len(all)-refusals)
	if refusals == 0 || refusals == len(all) {
		t.Errorf("%s: %d of %d answers are refusals", p.name, refusals, len(all))
	}
}

// The agent is uninstalled only once the boot guard is: without an agent the
// next boot would close the node for good.
func testBootGuardUninstall(t *testing.T) {
	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-agent")
	kubectl(t, "-n", system, "wait", "--for=delete", "pods", "-l", agentPods, "--timeout=60s")
	kubectl(t, "apply", "-k", manifest(t, "uninstall"))
	t.Cleanup(func() {
		kubectl(t, "-n", system, "delete", "daemonset", "sidestep-uninstall", "--ignore-not-found")
		removePermission(t)
	})
	eventually(t, 60*time.Second, func() error {
		said, err := tryInNode(nil, "kubectl", "-n", system, "logs", "-l", uninstallPods)
		if err == nil && !strings.Contains(said, "the boot guard is installed on this node") {
			err = fmt.Errorf("it says %q", said)
		}
		return err
	})
	if pins := inNode(t, "ls", "/sys/fs/bpf/sidestep"); !strings.Contains(pins, "link_connect4") {
		t.Errorf("though it refused, pins are %q", pins)
	}
	kubectl(t, "-n", system, "delete", "daemonset", "sidestep-uninstall")

	kubectl(t, "apply", "-k", manifest(t, "uninstall-boot-guard"))
	kubectl(t, "-n", system, "rollout", "status", "daemonset/sidestep-uninstall-boot-guard", "--timeout=60s")
	t.Log(kubectl(t, "-n", system, "logs", "-l", bootPods, "--tail=-1"))
	kubectl(t, "delete", "-k", manifest(t, "uninstall-boot-guard"))
	left := inNode(t, "bash", "-c", `find /etc/systemd/system /opt/sidestep /var/lib/sidestep /run/sidestep -name '*sidestep*' -o -name agent -o -name 'boot*'`)
	for path := range strings.Lines(left) {
		if path = strings.TrimSpace(path); path != "/opt/sidestep" && path != "/var/lib/sidestep" && path != "/run/sidestep" {
			t.Errorf("left: %s", path)
		}
	}
}
