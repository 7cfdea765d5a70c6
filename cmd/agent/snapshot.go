package main

import (
	"context"

	"k8s.io/utils/clock"

	"github.com/sidestep-agent/sidestep/pkg/podcache"
	"github.com/sidestep-agent/sidestep/pkg/snapshot"
)

func newSnapshot(o runOptions) (*snapshot.File, error) {
	boot, err := snapshot.BootID(o.proc)
	if err != nil {
		return nil, err
	}
	return snapshot.New(o.stateDir, snapshot.Origin{Format: podcache.StateFormat, Node: o.nodeName, BootID: boot}), nil
}

// keepSnapshot keeps what is known of pods for the next agent to start with,
// until ctx ends. If the API server does not answer, this one starts with what
// the last one kept.
func (a *agent) keepSnapshot(ctx context.Context) error {
	select {
	case <-a.pods.Ready():
	case <-a.pods.Unanswered():
		a.importSnapshot()
	case <-ctx.Done():
		return nil
	}
	if !waitFor(ctx, a.pods.Ready()) {
		return nil
	}
	k := snapshot.Keeper{File: a.snapshot, Source: a.pods, Clock: clock.RealClock{}, Log: a.log}
	return k.Run(ctx)
}

func (a *agent) importSnapshot() {
	content, taken, err := a.snapshot.Read()
	if err == nil {
		err = a.pods.Import(content, taken)
	}
	if err != nil {
		a.log.Warn("the API server has not answered, and no snapshot can be used: pods are held until it does", "err", err)
	}
}
