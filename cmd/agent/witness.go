package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// witnessInterval is how often it is looked for pods that run and that the API
// server has not reported.
const witnessInterval = time.Second

// witness tells the cache which pods run that it does not know, until ctx ends:
// the one thing that shows that a watch which is connected has gone silent.
func (a *agent) witness(ctx context.Context) error {
	if !waitFor(ctx, a.pods.Ready(), a.tree.Ready()) {
		return nil
	}
	tick := time.NewTicker(witnessInterval)
	defer tick.Stop()
	for {
		var unknown []string
		for _, cg := range a.tree.Snapshot() {
			if _, _, known := a.pods.Lookup(workload.CgroupRef{PodUID: cg.UID}); !known && populated(cg.Path) {
				unknown = append(unknown, cg.UID)
			}
		}
		a.pods.Witness(unknown)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// populated reports whether a process is in the cgroup or below it: one that
// has none is of a pod that has ended.
// https://docs.kernel.org/admin-guide/cgroup-v2.html#un-populated-notification
func populated(cgroup string) bool {
	events, err := os.ReadFile(filepath.Join(cgroup, "cgroup.events"))
	return err == nil && strings.Contains(string(events), "populated 1")
}

// witnessProblems names the pods that the API server has not reported.
func (a *agent) witnessProblems() []string {
	var all []string
	for _, uid := range a.pods.Unexplained() {
		all = append(all, fmt.Sprintf("a pod with UID %s runs here and the API server has not reported it: it is held. "+
			"It was deleted by force, or the agent is blind: see whether kubectl knows it (kubectl get pods -A -o wide)", uid))
	}
	return all
}
