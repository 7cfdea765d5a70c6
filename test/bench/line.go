package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/routeguard"
	"github.com/sidestep-agent/sidestep/pkg/workload"
	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	// lineBatch is how many rounds are taken before the interval is looked at.
	lineBatch = 50
	// lineWidth is how far from the median its 95 % bounds may be.
	lineWidth = 0.02
	// linePatience ends the rounds of one figure.
	linePatience = 150 * time.Second
	// linePods is how many pods' links the second line lets through.
	linePods = 250
)

func init() {
	var open []func() // listeners, until the process ends
	registerSession("sink", func(e elsewhere) (float64, error) {
		stop, err := listenAt(e.To)
		open = append(open, stop)
		return 0, err
	})
}

// measureLine compares what a pod can send to another with and without the
// second line, which the kernel runs for each packet that comes to the node.
func measureLine(dir string, r *report) (err error) {
	n, err := lab.NewNode(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	// Of this network namespace, the lab's: the node routes between pods.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	p, errFrom := n.StartPod(lab.PodOptions{})
	other, errTo := n.StartPod(lab.PodOptions{})
	if err := errors.Join(errFrom, errTo); err != nil {
		return err
	}
	sink := netip.AddrPortFrom(netip.AddrFrom4([4]byte(other.Address.To4())), 9)
	inOther, err := startSession(other, "sink")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, inOther.end()) }()
	if _, err := inOther.number(elsewhere{To: sink}); err != nil {
		return err
	}
	inPod, err := startSession(p, "elsewhere")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, inPod.end()) }()
	k := &kernelRows{report: r, sink: sink, node: n, pod: p, inPod: inPod}
	for _, kind := range []struct {
		do, figure string
		unit       func(float64) string
	}{
		{sendPackets, "small packets", perSecond}, {sendBulk, "TCP throughput", gigabits},
	} {
		all, err := k.lineSides(elsewhere{Do: kind.do, To: sink})
		if err != nil {
			return err
		}
		k.add(kind.figure+", second line", kind.unit, "without it", all, "without it again", atLeast(0.98, " ×"))
		row := &r.Rows[len(r.Rows)-1]
		if row.Result == bound {
			row.Result = missed // what is beside it is no program, but the same again
		}
		k.note("%s with the second line, to another pod: %d rounds", kind.figure, len(all[0]))
	}
	return nil
}

// lineSides takes turns with the line, without it, and without it again, until
// the median is known well enough.
func (k *kernelRows) lineSides(e elsewhere) ([][]float64, error) {
	turn := func() (float64, error) { return k.inPod.number(e) }
	all := make([][]float64, 3)
	for start := time.Now(); time.Since(start) < linePatience; {
		some, err := take(lineBatch, lineTurn(true, turn), lineTurn(false, turn), lineTurn(false, turn))
		if err != nil {
			return nil, err
		}
		for i := range all {
			all[i] = append(all[i], some[i]...)
		}
		if now := ratioOf(all[0], all[1]); now.High-now.Low <= 2*lineWidth {
			break
		}
	}
	return all, nil
}

// lineTurn has the turn taken while the second line is there, or after it was
// written and removed again: what writing it leaves meets all sides.
func lineTurn(there bool, turn func() (float64, error)) func() (float64, error) {
	links := make([]workload.PodLink, linePods)
	for i := range links {
		links[i] = workload.PodLink{Ifindex: 1000 + i, IMDS: true, WireServer: true}
	}
	return func() (v float64, err error) {
		var failed error
		line := routeguard.New(routeguard.Options{
			Log: slog.New(slog.DiscardHandler), Repaired: func() {}, Failed: func(err error) { failed = err },
		})
		if err := errors.Join(line.SetLinks(links), failed); err != nil {
			return 0, err
		}
		left, err := routeguard.Leftovers()
		if err != nil || len(left) != 1 {
			return 0, fmt.Errorf("find the second line: %d of it, %w", len(left), err)
		}
		if !there {
			if err := left[0].Remove(); err != nil {
				return 0, err
			}
			return turn()
		}
		defer func() { err = errors.Join(err, left[0].Remove()) }()
		return turn()
	}
}
