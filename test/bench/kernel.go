package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf/link"

	"github.com/sidestep-agent/sidestep/test/lab"
)

const (
	connectRounds = 500
	// swapRounds are those in which programs are attached and removed.
	swapRounds = 150
)

// kernelRows are about what pods and the node do elsewhere. One process in one
// pod takes all turns, under programs that are attached for each.
type kernelRows struct {
	report      *report
	sink        netip.AddrPort
	node        *lab.Node
	pod         *lab.Pod
	inPod       *session
	ours, empty programSet
}

func measureKernel(dir string, r *report) (err error) {
	k := &kernelRows{report: r}
	var stop func()
	if k.sink, stop, err = startSink(); err != nil {
		return err
	}
	defer stop()
	one, errOne := os.MkdirTemp(dir, "node-")
	two, errTwo := os.MkdirTemp(dir, "node-")
	if err := errors.Join(errOne, errTwo); err != nil {
		return err
	}
	if k.ours, err = loadOurs(one); err != nil {
		return err
	}
	defer k.ours.close()
	if k.empty, err = loadEmpty(); err != nil {
		return err
	}
	defer k.empty.close()
	if k.node, err = lab.NewNode(two); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.node.Close()) }()
	if k.pod, err = k.node.StartPod(lab.PodOptions{}); err != nil {
		return err
	}
	if k.inPod, err = startSession(k.pod, "elsewhere"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.inPod.end()) }()
	for _, measure := range []func() error{k.instructions, k.connects, k.tcpConnects, k.hostConnects, k.traffic} {
		if err := measure(); err != nil {
			return err
		}
	}
	return nil
}

// instructions notes what the kernel has of each program of ours.
func (k *kernelRows) instructions() error {
	for _, hook := range slices.Sorted(maps.Keys(k.ours)) {
		info, err := k.ours[hook].Info()
		if err != nil {
			return err
		}
		loaded, err := info.Instructions()
		if err != nil {
			return err
		}
		verified, _ := info.VerifiedInstructions() // 0 before Linux 5.16
		machine, _ := info.JitedSize()
		k.report.Instructions = append(k.report.Instructions, instructions{
			Program: info.Name, Loaded: len(loaded), Verified: verified, Machine: machine,
		})
	}
	return nil
}

// connects compares our connect4 with an empty program at the same cgroup.
func (k *kernelRows) connects() error {
	empty := k.empty["connect4"]
	l, err := link.AttachCgroup(link.CgroupOptions{Path: k.node.Kubepods, Attach: empty.at, Program: empty.Program})
	if err != nil {
		return err
	}
	defer l.Close()
	with := func(p program) func() (float64, error) {
		return func() (float64, error) {
			if err := l.Update(p.Program); err != nil {
				return 0, err
			}
			return k.inPod.number(elsewhere{Do: connectUDP, To: k.sink})
		}
	}
	all, err := take(connectRounds, with(k.ours["connect4"]), with(empty), with(empty))
	if err != nil {
		return err
	}
	k.add("connect() to anything else from a pod", nanoseconds, "an empty connect4", all, "the same again", atMost(1.05, " ×"))
	return nil
}

// hostConnects has a process of the node connect while our programs are
// attached at kubepods, and while they are not.
func (k *kernelRows) hostConnects() (err error) {
	host, err := startSession(nil, "elsewhere")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.end()) }()
	turn := func() (float64, error) {
		return host.number(elsewhere{Do: connectUDP, To: k.sink})
	}
	all, err := take(swapRounds, k.under(k.ours, turn), turn, k.under(k.empty, turn))
	if err != nil {
		return err
	}
	// None of the programs is called. But while one is attached anywhere, the
	// kernel looks for those of each caller's cgroup (cgroup_bpf_enabled_key).
	k.add("connect() from a host process", nanoseconds, "not attached", all, "empty programs", atMost(1.005, " ×"))
	return nil
}

// under has the turn taken with programs attached.
func (k *kernelRows) under(set programSet, turn func() (float64, error)) func() (float64, error) {
	return func() (v float64, err error) {
		detach, err := set.attach(k.pod, k.node.Kubepods)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, detach()) }()
		return turn()
	}
}

// sides has the process in the pod do the same under our programs, under none
// and under empty ones, with each guard. The second time without programs shows
// by what equal sides differ.
func (k *kernelRows) sides(e elsewhere) (none, again []float64, full, socket [][]float64, err error) {
	turn := func() (float64, error) { return k.inPod.number(e) }
	all, err := take(swapRounds, turn, turn, k.under(k.ours, turn), k.under(k.empty, turn),
		k.under(k.ours.without(packetGuard), turn), k.under(k.empty.without(packetGuard), turn))
	if err != nil {
		return nil, nil, nil, nil, err
	}
	none = all[0]
	return none, all[1], [][]float64{all[2], none, all[3]}, [][]float64{all[4], none, all[5]}, nil
}

// tcpConnects compares whole TCP connects. The guard of links is another row's;
// what it adds is noted.
func (k *kernelRows) tcpConnects() error {
	none, again, full, socket, err := k.sides(elsewhere{Do: connectTCP, To: k.sink})
	if err != nil {
		return err
	}
	k.add("TCP connect elsewhere, sockops attached", nanoseconds, "no program", socket, "empty programs", atMost(1.05, " ×"))
	k.note("a TCP connect under --guard=full: %s of no program, under empty programs as many: %s",
		ratioOf(full[0], none), ratioOf(full[2], none))
	k.note("the same pod without programs twice, a TCP connect: %s", ratioOf(again, none).spread())
	return nil
}

// traffic compares what steered pods can send elsewhere.
func (k *kernelRows) traffic() error {
	for _, kind := range []struct {
		do, figure string
		unit       func(float64) string
	}{
		{sendBulk, "TCP throughput", gigabits}, {sendPackets, "small packets", perSecond},
	} {
		none, again, full, socket, err := k.sides(elsewhere{Do: kind.do, To: k.sink})
		if err != nil {
			return err
		}
		k.add(kind.figure+", --guard=full", kind.unit, "no program", full, "empty programs", atLeast(0.98, " ×"))
		k.add(kind.figure+", --guard=socket", kind.unit, "no program", socket, "empty programs", atLeast(0.98, " ×"))
		k.note("the same pod without programs twice, %s: %s", kind.figure, ratioOf(again, none).spread())
	}
	return nil
}

// add adds the row of a comparison: ours, the baseline, and the minimal
// program.
func (k *kernelRows) add(figure string, unit func(float64) string, baseline string, all [][]float64, minimal string, target limit) {
	k.report.Rows = append(k.report.Rows, ratioRow(figure, unit(median(all[0])), unit(median(all[1]))+", "+baseline,
		ratioOf(all[0], all[1]), ratioOf(all[2], all[1]), minimal, target))
}

func (k *kernelRows) note(format string, args ...any) {
	k.report.Notes = append(k.report.Notes, fmt.Sprintf(format, args...))
}

func nanoseconds(v float64) string { return fmt.Sprintf("%.0f ns", v) }

func microseconds(v float64) string { return fmt.Sprintf("%.1f µs", v) }

func perSecond(v float64) string { return fmt.Sprintf("%.0f/s", v) }

func gigabits(v float64) string { return fmt.Sprintf("%.1f Gbit/s", v*8/1e9) }
