package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

const (
	floodRounds = 3
	// floodLead is how long a flood goes on before the victim's requests are
	// counted, and floodWatch how long they are.
	floodLead  = 500 * time.Millisecond
	floodWatch = 2 * time.Second
)

// floodRows measures what one pod's floods do to another, with the limits that
// an agent has by default.
type floodRows struct {
	report *report
	scene  *scene.Scene
	victim *scene.Workload
	from   *scene.Workload // the attacker
	bare   netip.AddrPort  // a server of the attacker's own
	peak   float64         // MiB
}

// measureFloods returns the rows of the floods: the victim's p99 while the agent
// is flooded, beside that while a bare server of the attacker's is.
func measureFloods(ctx context.Context, s *scene.Scene, w *scene.Workload, r *report) error {
	if err := s.Agent.WriteConfig(fmt.Sprintf("apiVersion: %s\nkind: %s\n", config.APIVersion, config.Kind)); err != nil {
		return err
	}
	if err := s.Agent.End(ctx); err != nil {
		return err
	}
	if err := s.Restart(ctx); err != nil {
		return err
	}
	f := &floodRows{report: r, scene: s, victim: w, from: newWorkload("attacker", 1)}
	if err := s.Start(f.from); err != nil {
		return err
	}
	request := tokenRequest("https%3A%2F%2Fvault.azure.net")
	body, err := lab.Run[fetching, []byte](ctx, w.Pod, "fetch", fetching{imds, request})
	if err != nil {
		return err
	}
	f.bare = netip.MustParseAddrPort("127.0.0.1:8090")
	_, end, err := startFloor(s.Node, f.from.Pod, floor{At: f.bare, Body: body})
	if err != nil {
		return err
	}
	defer end()
	began, lines := time.Now(), f.lines()
	asked := f.exchanges()
	for _, k := range floodKinds {
		if err := f.measure(ctx, k.kind, k.figure, request); err != nil {
			return fmt.Errorf("%s: %w", k.kind, err)
		}
	}
	f.addBounds(f.exchanges()-asked, f.lines()-lines, time.Since(began))
	return s.Stop(f.from)
}

func (f *floodRows) measure(ctx context.Context, kind, figure string, request []byte) error {
	p99s, lost := make([][]float64, 2), 0
	for round := range floodRounds {
		for _, side := range order(2) {
			at := []netip.AddrPort{imds, f.bare}[side]
			attack := flooding{At: at, Kind: kind, Lasts: floodLead + floodWatch + floodLead, Round: round}
			err := during(ctx, f.from.Pod, attack, func() error {
				saw, err := lab.Run[watching, watched](ctx, f.victim.Pod, "watch", watching{request, floodWatch})
				p99s[side] = append(p99s[side], saw.P99)
				lost += saw.Lost
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	peak, err := peakMemory(f.scene.Agent.PID())
	if err != nil {
		return err
	}
	f.peak = max(f.peak, peak)
	limit := atMost(1.5, " ×")
	row := ratioRow("a neighbour's p99 under a flood: "+figure, microseconds(median(p99s[0])), microseconds(median(p99s[1]))+", the flood at a bare server",
		ratioOf(p99s[0], p99s[1]), ratio{Median: 1, Low: 1, High: 1, P10: 1, P90: 1}, "", limit)
	row.Minimal = nil
	if lost > 0 {
		row.Measured, row.Result = fmt.Sprintf("%d requests lost", lost), missed
	}
	f.report.Rows = append(f.report.Rows, row)
	return nil
}

// addBounds adds the rows of what all floods together made the agent do, of
// which docs/bounds.md has the bounds.
func (f *floodRows) addBounds(exchanges, lines int, lasted time.Duration) {
	seconds := lasted.Seconds()
	f.report.Rows = append(f.report.Rows,
		valueRow("agent memory under all floods, at most", fmt.Sprintf("%.0f MiB RSS", f.peak), "–", f.peak, atMost(128, " MiB")),
		valueRow(fmt.Sprintf("new exchanges of the flooding pod in %.0f s", seconds), fmt.Sprint(exchanges), "–",
			float64(exchanges), atMost(64+float64(int(2*seconds)), "")),
		// 20 and one in 10 s of the pod's requests, the same of its account's
		// exchanges, ten and one a second of connections.
		valueRow(fmt.Sprintf("log lines about the floods in %.0f s", seconds), fmt.Sprint(lines), "–",
			float64(lines), atMost(float64(50+int(seconds*1.2)), "")))
	f.report.Notes = append(f.report.Notes, fmt.Sprintf("floods took %.0f s", seconds))
}

func (f *floodRows) lines() int { return bytes.Count(f.scene.Agent.Log.Whole(), []byte("\n")) }

// exchanges returns how often Entra has been asked for a token.
func (f *floodRows) exchanges() int {
	return bytes.Count(f.scene.Cloud.Logs.Entra.Whole(), []byte(`"kind":"token"`))
}

// peakMemory returns the most that a process has had resident, in MiB.
func peakMemory(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kilobytes float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kilobytes); n == 1 {
			return kilobytes / 1024, nil
		}
	}
	return 0, fmt.Errorf("process %d has no peak of its memory", pid)
}
