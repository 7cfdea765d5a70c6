package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/delivery"
	"github.com/sidestep-agent/sidestep/pkg/intercept"
)

// attachFirst attaches the programs before anything that may be wrong at a start is
// looked at, with every pod held that has no verdict yet. Settings of an
// earlier agent stay as they are until this one has its configuration. Where
// another agent serves, it has all of this in place.
func (a *agent) attachFirst() error {
	if a.lock == nil {
		return nil
	}
	kubepods := a.tree.KubepodsID()
	netns, err := delivery.ReserveNode(a.options.Listen.Addr())
	if err != nil {
		return err
	}
	if a.self != 0 {
		if err := a.hooks.SetVerdict(a.self, delivery.OwnEntry()); err != nil {
			return err
		}
	}
	configured, err := a.hooks.Configured()
	if err != nil {
		return err
	}
	if configured != kubepods {
		closed, err := a.options.settings(config.Held(), a.options.KubepodsCgroup, kubepods, netns)
		if err != nil {
			return err
		}
		closed.NoNodeListener = true // there is no listener yet
		if err := a.hooks.Configure(closed); err != nil {
			return err
		}
	}
	if err := a.attachOwn(); err != nil {
		return err
	}
	guard, _ := a.options.effectiveGuard()
	if err := a.hooks.Attach(a.options.KubepodsCgroup, guard != GuardOff); err != nil {
		return err
	}
	a.fresh = configured != kubepods
	return nil
}

// attachOwn attaches what an agent outside kubepods needs at its own cgroup. An
// agent in a pod has all that it needs at kubepods.
func (a *agent) attachOwn() error {
	if a.self != 0 {
		return nil
	}
	own, err := ownCgroup(a.options.CgroupRoot)
	if err != nil {
		return err
	}
	err = a.hooks.AttachOwn(own)
	if errors.Is(err, intercept.ErrRootCgroup) {
		a.rootCgroup.Do(func() { a.log.Warn("nothing is attached at the own cgroup of the agent", "err", err) })
		return nil
	}
	return err
}

// ownCgroup returns the path of this process's cgroup, below the mount at root.
func ownCgroup(root string) (string, error) {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the agent's own cgroup: %w", err)
	}
	for line := range strings.Lines(string(membership)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return filepath.Join(root, path), nil
		}
	}
	return "", errors.New("find the agent's own cgroup: it is in no cgroup of version 2")
}

// namespaces returns the network namespaces in which the pod with the cgroup has
// processes, each once, by paths.
func (a *agent) namespaces(podCgroupID uint64) ([]string, error) {
	var all []string
	var inodes []uint64
	for _, pod := range a.tree.Snapshot() {
		if pod.CgroupID != podCgroupID {
			continue
		}
		pids, err := a.tree.Processes(pod.Path)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			path := filepath.Join(a.options.Proc, fmt.Sprint(pid), "ns/net")
			var stat unix.Stat_t
			if err := unix.Stat(path, &stat); err != nil {
				continue // the process has ended
			}
			if !slices.Contains(inodes, stat.Ino) {
				inodes, all = append(inodes, stat.Ino), append(all, path)
			}
		}
	}
	return all, nil
}

// deliver keeps the kernel's verdicts. Where the maps are not those that the programs go by yet, the settings are
// written first, so that a link's guard that goes by them knows who is let pass.
func (a *agent) deliver(ctx context.Context) error {
	if !a.hooks.Active() && !waitFor(ctx, a.attached) {
		return nil
	}
	return a.delivery.Run(ctx)
}

// attachInterval is how often it is looked whether the programs are attached
// as this agent has left them. It bounds for how long a detached one is
// missing.
const attachInterval = 2 * time.Second

// attach applies the configuration to the programs, which attachFirst has attached,
// and keeps them there: where kubepods was made again, and where others have
// detached or unpinned something. It waits for nothing: pods without a verdict
// are held. Programs of another layout are replaced once every pod has its
// verdict in this one.
func (a *agent) attach(ctx context.Context) error {
	changes, cancel := a.tree.Subscribe()
	defer cancel()
	tick := time.NewTicker(attachInterval)
	defer tick.Stop()
	attachedAt, due := uint64(0), false
	decided := a.delivery.Decided()
	for {
		if id := a.tree.KubepodsID(); id != 0 && (id != attachedAt || due) {
			if err := a.settings.attach(id); err != nil && !a.wereAttached() {
				return err
			}
			a.attachOnce.Do(func() { close(a.attached) })
			attachedAt = id
		}
		due = false
		select {
		case <-changes:
		case <-decided:
			decided, due = nil, true
			a.hooks.Filled()
		case <-tick.C:
			due = true
		case <-ctx.Done():
			return nil
		}
	}
}

// wereAttached reports whether this agent has had the programs attached: then it
// serves pods, and tries again rather than end.
func (a *agent) wereAttached() bool {
	select {
	case <-a.attached:
		return true
	default:
		return false
	}
}

// unknownsPerSecond bounds how many callers without a usable verdict are looked
// up. Reports of the kernel beyond it are lost: who connects again is
// reported again.
const unknownsPerSecond = 1000

// watchUnknowns has delivery look at a pod when the kernel meets a caller of
// its without a usable verdict.
func (a *agent) watchUnknowns(ctx context.Context) error {
	limit := rate.NewLimiter(unknownsPerSecond, unknownsPerSecond/10)
	return a.hooks.WatchUnknowns(ctx, func(cgroupID uint64) {
		if ref, err := a.tree.Resolve(cgroupID); err == nil {
			a.delivery.Look(ref.PodUID)
		}
		_ = limit.Wait(ctx) // an error says that ctx ends
	})
}

func (a *agent) sweep(ctx context.Context) error {
	return a.hooks.Sweep(ctx, func(cgroupID uint64) bool {
		_, err := a.tree.Resolve(cgroupID)
		return err == nil
	}, a.namespaces)
}
