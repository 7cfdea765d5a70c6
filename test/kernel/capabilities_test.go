package kernel

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
	"github.com/sidestep-agent/sidestep/pkg/preflight"
	"github.com/sidestep-agent/sidestep/pkg/routeguard"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

// limited is a node on which an agent shall do all that needs privileges.
type limited struct {
	CgroupRoot, Kubepods, BPFFS string
	PodUID                      string
	PodCgroup                   string
	Own                         string // the process's own cgroup
	NodeOnly                    bool
	Until                       string // if not empty: work until this file is there
}

func init() { lab.Register("limited", actLimited) }

// TestNeededCapabilities runs the agent's privileged work with the
// capabilities that it says it needs and no other, and then with each of them
// removed, to show that each is needed.
func TestNeededCapabilities(t *testing.T) {
	for name, needed := range map[string][]preflight.Capability{
		"pod delivery":  preflight.NeededForPodDelivery(),
		"node delivery": preflight.NeededForNodeDelivery(),
	} {
		t.Run(name, func(t *testing.T) {
			nodeOnly := name == "node delivery"
			if err := withCapabilities(t, nodeOnly, needed); err != nil {
				t.Errorf("with those needed: %v", err)
			}
			for i, c := range needed {
				rest := append(append([]preflight.Capability{}, needed[:i]...), needed[i+1:]...)
				if err := withCapabilities(t, nodeOnly, rest); err == nil {
					t.Errorf("works without %s as well", c.Name)
				}
			}
		})
	}
}

func withCapabilities(t *testing.T, nodeOnly bool, capabilities []preflight.Capability) error {
	t.Helper()
	n, err := lab.NewNode(t.TempDir())
	check(t, err)
	defer func() { check(t, n.Close()) }()
	defer removeLine(t)
	// Another user's, as containers' processes are: that is what PTRACE is for.
	p, err := n.StartPod(lab.PodOptions{User: 65534})
	check(t, err)
	return runLimited(t, limited{
		CgroupRoot: n.CgroupRoot, Kubepods: n.Kubepods, BPFFS: n.BPFFS,
		PodUID: p.UID, PodCgroup: p.Cgroup, Own: lab.OwnCgroup(), NodeOnly: nodeOnly,
	}, capabilities)
}

// Those that are needed suffice to end the connections of a pod that is closed
// off.
func TestNeededCapabilitiesEndConnections(t *testing.T) {
	for name, tc := range map[string]struct {
		nodeOnly bool // for a pod on the node's network then
		needed   []preflight.Capability
	}{
		"pod delivery":  {false, preflight.NeededForPodDelivery()},
		"node delivery": {true, preflight.NeededForNodeDelivery()},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := lab.NewNode(t.TempDir())
			check(t, err)
			defer func() { check(t, l.Close()) }()
			defer removeLine(t)
			n := &node{Node: l}
			n.serve(t, imds, answerAsIMDS)
			p, err := l.StartPod(lab.PodOptions{User: 65534, HostNetwork: tc.nodeOnly})
			check(t, err)
			until := filepath.Join(t.TempDir(), "until")
			end := n.linger(t, p, p.Container, lingering{Until: until})
			done := make(chan error, 1)
			go func() {
				done <- runLimited(t, limited{
					CgroupRoot: l.CgroupRoot, Kubepods: l.Kubepods, BPFFS: l.BPFFS, Until: until,
					PodUID: p.UID, PodCgroup: p.Cgroup, Own: lab.OwnCgroup(), NodeOnly: tc.nodeOnly,
				}, tc.needed)
			}()
			wantAborted(t, "a connection", end)
			check(t, os.WriteFile(until, nil, 0o600))
			check(t, <-done)
		})
	}
}

// runLimited runs the agent's privileged work with the capabilities.
func runLimited(t *testing.T, in limited, capabilities []preflight.Capability) error {
	t.Helper()
	bounding := []string{"-all"}
	for _, c := range capabilities {
		bounding = append(bounding, fmt.Sprintf("+cap_%d", c.Number))
	}
	input, err := json.Marshal(in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "setpriv", "--bounding-set", strings.Join(bounding, ","), "--", lab.Program())
	cmd.Env = lab.TaskEnvironment("limited")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// actLimited attaches, listens, and steers a pod, as the agent does.
func actLimited(in limited) (struct{}, error) {
	none := struct{}{}
	hooks, err := intercept.Load(in.BPFFS, quiet())
	if err != nil {
		return none, err
	}
	tree, err := cgroups.Open(in.CgroupRoot, in.Kubepods, quiet())
	if err != nil {
		return none, err
	}
	id, err := lab.CgroupID(in.PodCgroup)
	if err != nil {
		return none, err
	}
	if _, err := tree.Resolve(id); err != nil {
		return none, err
	}
	at, err := delivery.ListenNode(hooks, nodeListener, quiet())
	if err != nil {
		return none, err
	}
	if err := hooks.Configure(intercept.Settings{
		KubepodsID: tree.KubepodsID(), NodeNetns: at.NetnsCookie(), NodeListener: nodeListener,
		FirstPort: ports.First, LastPort: ports.Last, Quota: quota,
	}); err != nil {
		return none, err
	}
	if err := hooks.AttachOwn(in.Own); err != nil {
		return none, err
	}
	if err := hooks.Attach(in.Kubepods, true); err != nil {
		return none, err
	}
	return none, steerLimited(in, id, hooks, tree)
}

// steerLimited waits until the pod is steered, and to a listener of its own
// unless delivery is to the node.
func steerLimited(in limited, id uint64, hooks *intercept.Hooks, tree *cgroups.Tree) error {
	within := 3 * time.Second
	if in.Until != "" {
		within = 15 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	pods := newPodList()
	pods.set(workload.Pod{UID: in.PodUID, Decision: steer})
	var wrong error
	var line delivery.Line
	if !in.NodeOnly {
		line = routeguard.New(routeguard.Options{Log: quiet(), Repaired: func() {}, Failed: func(err error) { wrong = err }})
		if err := routeguard.Try(); err != nil {
			return err
		}
	}
	reconciler, err := delivery.NewReconciler(delivery.Options{
		Kernel: hooks, Pods: pods, Cgroups: tree, Proc: "/proc", Ports: ports, NodeOnly: in.NodeOnly,
		GuardLinks: !in.NodeOnly, Line: line,
		Serve: func(c net.Conn, _ uint64) { c.Close() }, Log: quiet(),
	})
	if err != nil {
		return err
	}
	go tree.Run(ctx)
	<-tree.Ready()
	reconciler.SetEnforced(true)
	go reconciler.Run(ctx)
	for in.Until != "" && ctx.Err() == nil {
		if exists(in.Until) {
			return wrong
		}
		time.Sleep(time.Millisecond)
	}
	for ctx.Err() == nil {
		e, ok, err := hooks.Verdict(id)
		if err != nil {
			return err
		}
		links, err := hooks.GuardedLinks()
		if err != nil {
			return err
		}
		steered := ok && e.Verdict == workload.Steer && (e.Port != 0) != in.NodeOnly
		guarded := len(links) > 0 && len(reconciler.Unguarded()) == 0
		if steered && guarded != in.NodeOnly {
			return wrong
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("the pod is not steered and guarded: %v", reconciler.Unguarded())
}
