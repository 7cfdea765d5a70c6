package e2e

import (
	"fmt"
	"testing"
	"time"
)

// agentImage is what the manifests name, as containerd does.
const (
	agentImage  = "docker.io/library/sidestep-agent:v0.1.0"
	hiddenImage = "sidestep.test/hidden:1"
)

// switchOff leaves of the node what a reboot would: no kubelet, no pods, and
// nothing of the agent's in the kernel or in memory. The kubelet is started
// again with switchOn, at the latest when the test ends.
func switchOff(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if !kubeletWorks() {
			switchOn(t)
		}
	})
	inNode(t, "bash", "-euc", `
		for process in /proc/[0-9]*; do
			exe=$(readlink "$process/exe") || continue
			[ "${exe##*/}" = kubelet ] || continue
			cp "$process/cmdline" /run/node/kubelet.cmdline
			kill -KILL "${process#/proc/}"
		done
		echo 1 >/sys/fs/cgroup/kubepods/cgroup.kill`)
	eventually(t, 30*time.Second, func() error {
		_, err := tryInNode(nil, "bash", "-euc", `
			find /sys/fs/cgroup/kubepods -depth -type d -exec rmdir {} +
			rm -rf /sys/fs/bpf/sidestep /run/sidestep
			ip address delete 169.254.169.252/32 dev lo`)
		return err
	})
}

// switchOn starts the kubelet as it was started before.
func switchOn(t *testing.T) {
	t.Helper()
	inNode(t, "bash", "-euc", `xargs -0 setsid </run/node/kubelet.cmdline >>/run/node/log/kubelet.log 2>&1 &`)
	eventually(t, 60*time.Second, func() error {
		if !kubeletWorks() {
			return fmt.Errorf("the kubelet does not work")
		}
		return nil
	})
}

func kubeletWorks() bool {
	_, err := tryInNode(nil, "curl", "--silent", "--fail", "http://127.0.0.1:10248/healthz")
	return err == nil
}

// hideImage keeps the agent from starting, as a registry that does not answer
// would, until show is called or the test ends.
func hideImage(t *testing.T) (show func()) {
	t.Helper()
	ctr := func(args ...string) error {
		_, err := tryInNode(nil, append([]string{"ctr", "--namespace", "k8s.io", "images"}, args...)...)
		return err
	}
	for _, args := range [][]string{{"tag", agentImage, hiddenImage}, {"remove", agentImage}} {
		if err := ctr(args...); err != nil {
			t.Fatal(err)
		}
	}
	show = func() {
		if ctr("tag", hiddenImage, agentImage) == nil {
			_ = ctr("remove", hiddenImage)
		}
	}
	t.Cleanup(show)
	return show
}
