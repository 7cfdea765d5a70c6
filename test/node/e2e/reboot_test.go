package e2e

import (
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
	kubelet.kill(t)
	inNode(t, "bash", "-euc", `echo 1 >/sys/fs/cgroup/kubepods/cgroup.kill`)
	eventually(t, 30*time.Second, func() error {
		_, err := tryInNode(nil, "bash", "-euc", `
			[ ! -d /sys/fs/cgroup/kubepods ] || find /sys/fs/cgroup/kubepods -depth -type d -exec rmdir {} +
			rm -rf /sys/fs/bpf/sidestep /run/sidestep
			[ -z "$(ip address show dev lo to 169.254.169.252)" ] || ip address delete 169.254.169.252/32 dev lo`)
		return err
	})
}

// switchOn starts the kubelet as it was started before.
func switchOn(t *testing.T) { kubelet.start(t) }

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
