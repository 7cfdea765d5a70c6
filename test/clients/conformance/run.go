package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
)

// suite is a run of the suite.
type suite struct {
	scene *scene.Scene
	blobs *azurite // nil: no client writes blobs
	azure *azure
	ids   map[string]identities      // by the clients' group
	pods  map[string]*scene.Workload // by the client's short name
	table *table
}

// run runs every case of every client and prints the table. It returns
// errFailed if one is not OK.
func run(ctx context.Context, o options, out io.Writer) (err error) {
	var clients []client
	for _, c := range catalog(o.clients) {
		if o.only.MatchString(c.name) {
			clients = append(clients, c)
		}
	}
	s := &suite{table: newTable(out)}
	if err := s.open(ctx, o, clients); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, c := range clients {
		for _, t := range c.cases {
			if err := s.play(ctx, c, t); err != nil {
				return fmt.Errorf("%w\n%s", err, s.scene.Agent.LastWords())
			}
		}
	}
	if err := s.live(ctx, clients); err != nil {
		return err
	}
	return s.table.end(o.only.String() != "")
}

func (s *suite) open(ctx context.Context, o options, clients []client) error {
	file, ids, err := openFederation(clients)
	if err != nil {
		return err
	}
	s.ids, s.pods, s.azure = ids, map[string]*scene.Workload{}, newAzure()
	var pods []*scene.Workload
	for _, c := range clients {
		s.pods[c.short] = ids[c.group()].pod(c)
		pods = append(pods, s.pods[c.short])
	}
	s.scene, err = scene.Open(ctx, s.azure.serve(scene.Options{
		Agent: o.agent, LogLevel: "debug", Federation: file, VaultName: vaultName, Workloads: pods,
	}))
	if err != nil || !slices.ContainsFunc(clients, func(c client) bool { return c.blobs }) {
		return err
	}
	if s.blobs, err = startAzurite(ctx, s.scene, s.azure, o.clients); err != nil {
		return errors.Join(err, s.close())
	}
	return nil
}

func (s *suite) close() error {
	if s.blobs != nil {
		s.blobs.stop()
	}
	return s.scene.Close()
}

// tries is how often a client may not wait for an answer that was there.
const tries = 3

// play runs a case and prints what came of it.
func (s *suite) play(ctx context.Context, c client, t testCase) error {
	for try := 1; ; try++ {
		seen, took, err := s.observe(ctx, c, t)
		if err != nil {
			return err
		}
		why := judge(c, t, s.ids[c.group()][t.by], seen)
		if why != "" && try < tries && gaveUp(t.budget, seen) {
			s.table.again(c.name, t.String(), spent(seen.requests), took)
			continue
		}
		s.table.row(c.name, t.String(), spent(seen.requests), took, why)
		return nil
	}
}

// observe runs a client and gathers what all others saw of it.
func (s *suite) observe(ctx context.Context, c client, t testCase) (observed, time.Duration, error) {
	pod := s.pods[c.short]
	known := len(requestsOf(s.scene.Agent, pod.Name))
	s.azure.rewind()
	start := time.Now()
	r, err := ask(ctx, s.scene, pod, c, t, s.ids[c.group()].id(t.by))
	took := time.Since(start)
	if err != nil {
		r = result{Error: strings.Join(strings.Fields(err.Error()), " ")}
	}
	tokens, changes := s.azure.seen()
	if c.silent {
		r.Tokens = tokens
	}
	least := 0
	if r.Error == "" && t.mode != "detect" {
		least = 1
	}
	o := observed{result: r, changes: changes, requests: settled(ctx, s.scene.Agent, pod.Name, known, least)}
	o.entra, err = scene.Entries[entra.Entry](&s.scene.Cloud.Logs.Entra)
	return o, took, err
}
