package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/cgroups"
	"github.com/sidestep-agent/sidestep/pkg/podcache"
	"github.com/sidestep-agent/sidestep/pkg/snapshot"
	"github.com/sidestep-agent/sidestep/pkg/taint"
	"github.com/sidestep-agent/sidestep/pkg/tokens"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// upkeep is what an agent does beside serving, as pods come and go: each method
// with a context works until that ends.
type upkeep struct {
	options  Options
	log      *slog.Logger
	client   kubernetes.Interface
	pods     *podcache.Cache
	tree     *cgroups.Tree
	tokens   *tokens.Engine
	snapshot *snapshot.File // what is kept of pods
}

// warmUp does Entra's discovery before the first pod asks. Pods can be served
// without it, so failing is no error; it is tried until it succeeds.
func (u *upkeep) warmUp(ctx context.Context) error {
	const firstPause, longestPause = time.Second, time.Minute
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := u.tokens.Warm(ctx, workload.Workload{})
		if err == nil || ctx.Err() != nil {
			return nil
		}
		u.log.Warn("Entra cannot be reached yet", "err", err, "retry_in", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// warmPods has the engine make ready for each steered pod when it comes to the
// node, some time before its containers run.
func (u *upkeep) warmPods(ctx context.Context) error {
	changes, cancel := u.pods.Subscribe()
	defer cancel()
	known := map[string]bool{} // by UID
	for {
		for _, w := range u.newcomers(known) {
			if err := u.tokens.Warm(ctx, w); err != nil {
				u.log.Debug("Entra cannot be asked before a pod's first token", "err", err)
			}
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return nil
		}
	}
}

// newcomers returns the workloads of steered pods that are not among the known
// ones, and makes those known that are there now. A pod whose service account
// has not come yet is no newcomer yet.
func (u *upkeep) newcomers(known map[string]bool) []workload.Workload {
	var all []workload.Workload
	present := map[string]bool{}
	for _, p := range u.pods.Pods() {
		if !p.Steered() {
			continue
		}
		w, _, ok := u.pods.Lookup(workload.CgroupRef{PodUID: p.UID})
		if !ok || !w.ServiceAccountSeen {
			continue
		}
		if present[p.UID] = true; !known[p.UID] {
			all = append(all, w)
		}
	}
	clear(known)
	for uid := range present {
		known[uid] = true
	}
	return all
}

const (
	// accountGrace is how long a service account's tokens outlive its last
	// sight: longer than a pod takes to restart, or the cache to list again.
	accountGrace = 2 * time.Minute
	// accountLook is how often those are looked for that went unseen for as
	// long.
	accountLook = 30 * time.Second
)

// followAccounts erases the tokens of service accounts that no pod of the node
// uses any more, or that another has replaced, until ctx ends.
func (u *upkeep) followAccounts(ctx context.Context) error {
	changes, cancel := u.pods.Subscribe()
	defer cancel()
	ticker := time.NewTicker(accountLook)
	defer ticker.Stop()
	known := make(accounts)
	for {
		for _, uid := range known.see(accountsInUse(u.pods), time.Now()) {
			u.tokens.Forget(uid)
		}
		select {
		case <-changes:
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// accountsInUse returns the UIDs of the service accounts that pods run as;
// empty for one that is not there.
func accountsInUse(pods *podcache.Cache) map[types.NamespacedName]string {
	uids := make(map[types.NamespacedName]string)
	for _, p := range pods.Pods() {
		if w, _, ok := pods.Lookup(workload.CgroupRef{PodUID: p.UID}); ok {
			uids[types.NamespacedName{Namespace: p.Namespace, Name: p.ServiceAccount}] = w.ServiceAccountUID
		}
	}
	return uids
}

// sighting is when and as whose a service account's UID was seen last.
type sighting struct {
	name types.NamespacedName
	at   time.Time
}

// accounts are the service accounts that may have tokens, by UID.
type accounts map[string]sighting

// see takes the service accounts in use now, and returns the UIDs of those to
// forget: at once where another has taken the name, else after the grace.
func (known accounts) see(inUse map[types.NamespacedName]string, now time.Time) (forget []string) {
	for name, uid := range inUse {
		if uid != "" {
			known[uid] = sighting{name, now}
		}
	}
	for uid, s := range known {
		current := inUse[s.name]
		replaced := current != "" && current != uid
		if replaced || now.Sub(s.at) >= accountGrace {
			delete(known, uid)
			forget = append(forget, uid)
		}
	}
	return forget
}

// witnessInterval is how often pods are looked at that run and that the API
// server has not reported, while there are some.
const witnessInterval = time.Second

// witness tells the cache which pods run that it does not know, until ctx ends:
// the one thing that shows that a watch which is connected has gone silent.
func (u *upkeep) witness(ctx context.Context) error {
	pods, cancelPods := u.pods.Subscribe()
	defer cancelPods()
	running, cancelRunning := u.tree.Subscribe()
	defer cancelRunning()
	for {
		unknown, some := u.unknown()
		u.pods.Witness(unknown)
		var again <-chan time.Time
		if some {
			again = time.After(witnessInterval)
		}
		select {
		case <-pods:
		case <-running:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// unknown returns the pods, by UID, that the cache does not know and that run;
// some: there are such that do or may.
func (u *upkeep) unknown() (uids []string, some bool) {
	for _, cg := range u.tree.Snapshot() {
		if _, known := u.pods.Pod(cg.UID); known {
			continue
		}
		some = true // no event tells when one that is empty has a process
		if populated(cg.Path) {
			uids = append(uids, cg.UID)
		}
	}
	return uids, some
}

// populated reports whether a process is in the cgroup or below it: one that
// has none is of a pod that has ended.
// https://docs.kernel.org/admin-guide/cgroup-v2.html#un-populated-notification
func populated(cgroup string) bool {
	events, err := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
	return err == nil && strings.Contains(string(events), "populated 1")
}

// problems names the pods that the API server has not reported.
func (u *upkeep) problems() []string {
	var all []string
	for _, uid := range u.pods.Unexplained() {
		all = append(all, fmt.Sprintf("a pod with UID %s runs here and the API server has not reported it: it is held. "+
			"It was deleted by force, or the agent is blind: see whether kubectl knows it (kubectl get pods -A -o wide)", uid))
	}
	return all
}

// keepSnapshot keeps what is known of pods for the next agent to start with,
// until ctx ends. If the API server does not answer, this one starts with what
// the last one kept.
func (u *upkeep) keepSnapshot(ctx context.Context) error {
	select {
	case <-u.pods.Ready():
	case <-u.pods.Unanswered():
		u.importSnapshot()
	case <-ctx.Done():
		return nil
	}
	if !waitFor(ctx, u.pods.Ready()) {
		return nil
	}
	k := snapshot.Keeper{File: u.snapshot, Source: u.pods, Clock: clock.RealClock{}, Log: u.log}
	return k.Run(ctx)
}

func (u *upkeep) importSnapshot() {
	content, taken, err := u.snapshot.Read()
	if err == nil {
		err = u.pods.Import(content, taken)
	}
	if err != nil {
		u.log.Warn("the API server has not answered, and no snapshot can be used: pods are held until it does", "err", err)
	}
}

// removeTaint lets pods come to the node once those that come will be steered.
func (u *upkeep) removeTaint(ctx context.Context) error {
	if !u.options.RemoveTaint {
		return nil
	}
	r := taint.Remover{Nodes: u.client.CoreV1().Nodes(), Node: u.options.NodeName, Clock: clock.RealClock{}, Log: u.log}
	return r.Run(ctx)
}
