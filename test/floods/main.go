// Command floods has pods flood a broker, and the port of the agent's metrics,
// and prints who did what, the bound
// that stands in the way, how long another pod waits for its tokens meanwhile,
// or Prometheus for its scrape, and what memory it costs. Each flood is tried once more against a build
// without its bound: there it must do what the bound prevents, or the table
// would prove nothing. It needs no root; nothing leaves the loopback device.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidestep-agent/sidestep/test/floods/figures"
	"github.com/sidestep-agent/sidestep/test/overlay"
)

const (
	// mostMemory is what the host may have resident, in MiB: a part of the
	// agent's limit of 256.
	mostMemory = 128
	// mostWait bounds the victim's median. It is wide: flood and victim share the
	// machine, and what they do to each other there is none of the broker's.
	mostWait = 2 * time.Second
	victim   = 1
)

var (
	quick = flag.Bool("quick", false, "remove no bound")
	only  = flag.String("only", "", "the floods whose bound has this in its name alone")
)

func main() {
	flag.Parse()
	floods = slices.DeleteFunc(floods, func(f flood) bool { return !strings.Contains(f.bound, *only) })
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "floods:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "sidestep-floods-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	begun := time.Now()
	program := filepath.Join(dir, "host")
	if err := build(ctx, "-o", program); err != nil {
		return err
	}
	fmt.Printf(format, "FLOOD", "WHO", "BOUND", "SEEN", "VICTIM P50/P99", "MEMORY", "")
	var failed []string
	for _, f := range floods {
		r, err := try(ctx, program, f)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if !r.print(f, "") {
			failed = append(failed, f.name)
		}
	}
	if !*quick {
		harmless, err := runWithout(ctx, dir)
		if err != nil {
			return err
		}
		failed = append(failed, harmless...)
	}
	fmt.Printf("\nfloods: %d, %d not as expected, in %d s\n", len(floods), len(failed), int(time.Since(begun).Seconds()))
	if len(failed) > 0 {
		return errors.New("not as expected: " + strings.Join(failed, "; "))
	}
	return nil
}

// runWithout tries each flood on a host without its bound, and returns those
// that do no harm there.
func runWithout(ctx context.Context, dir string) (harmless []string, err error) {
	fmt.Println("\neach bound removed, so that its flood must do what it prevents:")
	program := filepath.Join(dir, "unbound")
	for _, f := range floods {
		edited, err := overlay.Write(ctx, filepath.Join(dir, "without"), without[f.bound])
		if err != nil {
			return nil, fmt.Errorf("remove %q: %w", f.bound, err)
		}
		if err := build(ctx, "-overlay", edited, "-o", program); err != nil {
			return nil, fmt.Errorf("without %q: %w", f.bound, err)
		}
		r, err := try(ctx, program, f)
		if err != nil {
			r.seen = "it is dead"
		}
		if r.print(f, f.bound) {
			harmless = append(harmless, f.name+" without its bound")
		}
	}
	return harmless, nil
}

func build(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "go", slices.Concat([]string{"build"}, args, []string{"./test/floods/host"})...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// row is the result of a flood.
type row struct {
	seen   string
	p50    time.Duration
	p99    time.Duration
	lost   int // requests of the victim's that brought nothing
	memory int // MiB
}

const format = "%-46s %-24s %-26s %-28s %-18s %-8s %s\n"

// print prints the row and reports whether the bound was seen to hold.
func (r row) print(f flood, taken string) bool {
	held := r.seen == f.expected && r.lost == 0 && r.p50 <= mostWait && r.memory <= mostMemory
	mark := "as expected"
	switch {
	case taken != "" && !held:
		mark = "as expected, without the bound"
	case taken != "" || !held:
		mark = "NOT AS EXPECTED"
	}
	wait := fmt.Sprintf("%.1f / %.1f ms", 1e3*r.p50.Seconds(), 1e3*r.p99.Seconds())
	if r.lost > 0 {
		wait = fmt.Sprintf("%d lost", r.lost)
	}
	fmt.Printf(format, f.name, f.who, f.bound, r.seen, wait, fmt.Sprintf("%d MiB", r.memory), mark)
	return held
}

// try floods a host of its own.
func try(ctx context.Context, program string, f flood) (row, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return row{}, err
	}
	if err := cmd.Start(); err != nil {
		return row{}, err
	}
	defer func() { _ = cmd.Wait() }() // killed by cancel, which is deferred before
	defer cancel()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return row{}, err
	}
	addresses := strings.Fields(line)
	if len(addresses) != 4 {
		return row{}, fmt.Errorf("the host says %q, want four addresses", line)
	}
	address, asks, figures := addresses[0], goodToken, addresses[2]
	if f.metrics {
		address, asks = addresses[1], "/metrics"
	}
	t := &target{address: f.address(addresses)}
	defer t.release()
	return f.measure(ctx, t, cmd.Process.Pid, address, asks, figures)
}

// measure runs the flood beside a victim that asks at the address, and returns
// what the host's figures say.
func (f flood) measure(ctx context.Context, t *target, host int, address, asks, figures string) (row, error) {
	before, err := figuresOf(ctx, figures)
	if err != nil {
		return row{}, err
	}
	end := make(chan struct{})
	waits := make(chan []time.Duration, 1)
	go func() { waits <- watch(address, asks, end) }()
	statuses := f.run(t)
	after, err := settled(ctx, figures)
	memory := resident(host)
	close(end)
	r := row{memory: memory}
	r.p50, r.p99, r.lost = judgeWaits(<-waits)
	if err != nil {
		return r, err
	}
	r.seen = f.judge(before, after, statuses)
	return r, nil
}

// watch asks for the victim, on a connection of its own each time, until end is
// closed. A wait of -1 brought nothing.
func watch(address, path string, end <-chan struct{}) []time.Duration {
	var waits []time.Duration
	t := &target{address: address}
	for {
		begun := time.Now()
		if ask(t.dial(victim), path) == http.StatusOK {
			waits = append(waits, time.Since(begun))
		} else {
			waits = append(waits, -1)
		}
		t.release()
		select {
		case <-end:
			return waits
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func judgeWaits(waits []time.Duration) (p50, p99 time.Duration, lost int) {
	slices.Sort(waits)
	for _, w := range waits {
		if w < 0 {
			lost++
		}
	}
	return waits[len(waits)/2], waits[len(waits)*99/100], lost
}

// settled returns the figures once the connections are the same for a second.
func settled(ctx context.Context, url string) (figures.Figures, error) {
	last, same := figures.Figures{}, 0
	for range 30 {
		f, err := figuresOf(ctx, url)
		if err != nil {
			return f, err
		}
		if same++; f.Connections != last.Connections || f.Scraping != last.Scraping {
			same = 0
		}
		if last = f; same == 4 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	return last, nil
}

func figuresOf(ctx context.Context, url string) (figures.Figures, error) {
	var f figures.Figures
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return f, err
	}
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		return f, err
	}
	defer resp.Body.Close()
	return f, json.NewDecoder(resp.Body).Decode(&f)
}

// resident returns a process's resident memory in MiB.
func resident(pid int) int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	text, _ := io.ReadAll(f)
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize() >> 20
}
