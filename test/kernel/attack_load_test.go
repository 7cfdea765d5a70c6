package kernel

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// loadAttacks do what is harmless once very often.
func loadAttacks() []attack {
	return []attack{
		{
			name: "one pod fills the flows", expected: always("others are served"),
			defence: "quota of a pod", success: "others are refused", run: fillFlows,
		},
		{
			name: "one pod fills the flows, from cgroups of its own", expected: always(eperm),
			defence: "quota not by own cgroups", success: held, run: evadeQuota,
		},
		{
			name: "10,000 connections from 50 pods", expected: always(rightOf(fewer(10000), fewer(10000))),
			defence: "namespace and port in the flow's key", success: "some are not their caller's",
			run: func(t *testing.T, _ guardMode) string {
				// So few ports that listeners in different pods share them.
				return storm(t, options{ports: delivery.PortRange{First: 28000, Last: 28049}})
			},
		},
		{
			name: "10,000 connections from 50 pods, node delivery", expected: always(rightOf(fewer(10000), fewer(10000))),
			defence: "client port in the flow's key", success: "some are not their caller's",
			run: func(t *testing.T, _ guardMode) string { return storm(t, options{nodeOnly: true}) },
		},
		{
			name: "1,000 pods over 20 addresses", expected: always(rightOf(fewer(1000), fewer(1000))),
			defence: "flows end with their socket", success: "some are not their caller's",
			run: churn,
		},
	}
}

func fillFlows(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	greedy, other := n.pod(t, steer, lab.PodOptions{}), n.pod(t, steer, lab.PodOptions{})
	defer n.occupy(t, greedy, greedy.Container, 4*quota)()
	if seen := seenBy(other, dialFrom(t, other, dialing{To: imds})); seen != ownIdentity {
		return "others are refused"
	}
	return "others are served"
}

// occupy has the pod open so many connections, as far as it may, and keep
// them. Their flows are not claimed. It returns what ends that.
func (n *node) occupy(t *testing.T, p *lab.Pod, cgroup string, connections int) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	kept := make(chan struct{})
	n.instead.Store(func(c net.Conn, _ uint64) { <-kept; c.Close() })
	go lab.RunIn[dialing, dialed](ctx, p, cgroup, "dial", dialing{
		To: imds, Silent: true, Copies: connections, Keep: true,
	})
	before, same := 0, 0
	eventually(t, "it has what it may have", func() bool {
		now := n.flows(t)
		if same++; now != before {
			before, same = now, 0
		}
		return now >= quota && same >= 100
	})
	n.instead.Store(n.answerItself)
	return func() { cancel(); close(kept) }
}

// evadeQuota is by a pod that makes cgroups of its own below its container's.
func evadeQuota(t *testing.T, _ guardMode) string {
	n := newNode(t, options{})
	p := n.stranger(t, lab.PodOptions{QoS: "guaranteed"})
	own := [2]string{filepath.Join(p.Container, "one"), filepath.Join(p.Container, "two")}
	for _, cgroup := range own {
		check(t, os.Mkdir(cgroup, 0o755))
	}
	defer n.occupy(t, p, own[0], quota)()
	return seenBy(p, dialIn(t, p, own[1], dialing{To: imds}))
}

// storm has 50 pods, half of them on the node's network, dial again and again
// at the same time.
func storm(t *testing.T, o options) string {
	const pods = 50
	connections := fewer(10000)
	n := newNode(t, o)
	var callers []*lab.Pod
	for i := range pods {
		callers = append(callers, n.pod(t, steer, lab.PodOptions{HostNetwork: i%2 == 0}))
	}
	var sum tally
	var all errgroup.Group
	for _, p := range callers {
		all.Go(func() error {
			got, err := lab.Run[repeated, map[string]int](t.Context(), p, "repeat",
				repeated{dialing{To: imds}, connections / pods})
			sum.add(got, p.UID)
			return err
		})
	}
	check(t, all.Wait())
	return sum.verdict(connections)
}

// churn makes pods that take over the address, and the source port, of the one
// before them, and dial at once.
func churn(t *testing.T, _ guardMode) string {
	const addresses = 20
	pods := fewer(1000)
	n := newNode(t, options{nodeOnly: true})
	var sum tally
	var all errgroup.Group
	for slot := range uint32(addresses) {
		all.Go(func() error {
			for range pods / addresses {
				uid, got, err := n.shortLife(t, slot)
				if err != nil {
					return err
				}
				sum.add(map[string]int{got: 1}, uid)
			}
			return nil
		})
	}
	check(t, all.Wait())
	return sum.verdict(pods)
}

// shortLife starts a pod at the address, has it dial, ends it, and returns
// whose the answer said it was.
func (n *node) shortLife(t *testing.T, slot uint32) (uid, got string, err error) {
	p, err := n.StartPod(lab.PodOptions{Slot: slot + 1})
	if err != nil {
		return "", "", err
	}
	n.pods.set(workload.Pod{UID: p.UID, Name: p.UID, Decision: steer})
	answer, err := lab.Run[dialing, dialed](t.Context(), p, "dial",
		dialing{To: imds, Bind: addrPort(p.Address, 41000)})
	if err != nil {
		return "", "", err
	}
	if answer.Errno != 0 {
		answer.Answer.UID = unix.ErrnoName(answer.Errno)
	}
	n.pods.remove(p.UID)
	return p.UID, answer.Answer.UID, p.Stop()
}

// tally counts whose answers were.
type tally struct {
	mu           sync.Mutex
	right, wrong int
}

func (s *tally) add(got map[string]int, uid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for whose, n := range got {
		if whose == uid {
			s.right += n
		} else {
			s.wrong += n
		}
	}
}

func (s *tally) verdict(of int) string {
	if s.wrong > 0 {
		return "some are not their caller's"
	}
	return rightOf(s.right, of)
}

func rightOf(right, all int) string { return fmt.Sprintf("%d of %d are their caller's", right, all) }

// fewer returns n, with -short a tenth of it: test/kernels runs the tests on
// emulated machines.
func fewer(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// repeated dials so often, one after the other, and counts by whose the
// answers are; what fails counts for no one.
type repeated struct {
	Dialing dialing
	Times   int
}

func init() { lab.Register("repeat", repeat) }

func repeat(r repeated) (map[string]int, error) {
	got := map[string]int{}
	deadline := time.Now().Add(time.Minute)
	for range r.Times {
		one, err := dial(r.Dialing)
		if err != nil {
			return nil, err
		}
		if one.Errno != 0 {
			one.Answer.UID = unix.ErrnoName(one.Errno)
		}
		got[one.Answer.UID]++
		if time.Now().After(deadline) {
			return got, fmt.Errorf("only %v after a minute", got)
		}
	}
	return got, nil
}
