package outages

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/sidestep-agent/sidestep/test/faults/row"
	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/suite"
)

// fault is one row of the table.
type fault struct {
	name  string
	wrong entra.Fault
	clock time.Duration // how far the node's clock is set off
	lasts time.Duration
	// What an app without a token must see: token, toldToComeAgain or refused.
	want func(first, last answer) string
	// says is want in the table.
	says string
	// age is that of the apps without a token; zero: an hour.
	age time.Duration
	// worked: they have had a token for another resource.
	worked bool
	// event is what the owners of their pods are notified of within some seconds; empty:
	// nothing while the fault lasts.
	event string
	// most is how many exchanges may be sent while the fault lasts.
	most uint64
}

const hold = 25 * time.Second

// token: the app gets its token at the first request, within the hold.
func token(first, _ answer) string {
	if first.status != 200 || first.took > hold+time.Second {
		return "want a token within 25 s at the first request"
	}
	return ""
}

// tokenAfter is token, but not before that time.
func tokenAfter(wait time.Duration) func(first, last answer) string {
	return func(first, last answer) string {
		if first.took < wait-100*time.Millisecond {
			return fmt.Sprintf("want no exchange before %v", wait)
		}
		return token(first, last)
	}
}

// comeAgain: the app is held, asked to try again later, and has its token in
// the end.
func comeAgain(first, last answer) string {
	switch {
	case first.status != 429 || first.retryAfter < time.Second:
		return "want 429 with Retry-After"
	case first.took < hold-time.Second || first.took > hold+5*time.Second:
		return "want it after 25 s"
	case last.status != 200:
		return "want a token in the end"
	}
	return ""
}

// refused: the app gets at once what is wrong.
func refused(code string) func(first, last answer) string {
	return func(first, _ answer) string {
		if first.status != 400 || first.took > 5*time.Second || !strings.Contains(first.body, code) {
			return "want 400 at once with " + code
		}
		return ""
	}
}

// refusedLater: the app is held, asked to try again later, and gets what is
// wrong once that is certain.
func refusedLater(code string) func(first, last answer) string {
	return func(first, last answer) string {
		switch {
		case first.status != 429 || first.retryAfter < time.Second || first.took < hold-time.Second:
			return "want 429 with Retry-After after 25 s"
		case last.status != 400 || !strings.Contains(last.body, code) || !strings.Contains(last.body, "Fix: "):
			return "want 400 with " + code + " and its fix in the end"
		}
		return ""
	}
}

const (
	saysToken     = "a token"
	saysComeAgain = "429 after 25 s, then a token"
)

var faults = []fault{
	{name: "outage 2 s (refused)", wrong: entra.Fault{Refuse: true}, lasts: 2 * time.Second, want: token, says: saysToken, most: 60},
	{name: "outage 10 s (refused)", wrong: entra.Fault{Refuse: true}, lasts: 10 * time.Second, want: token, says: saysToken, most: 90},
	{name: "outage 20 s (refused)", wrong: entra.Fault{Refuse: true}, lasts: 20 * time.Second, want: token, says: saysToken, most: 100},
	{name: "outage 60 s (refused)", wrong: entra.Fault{Refuse: true}, lasts: time.Minute, want: comeAgain, says: saysComeAgain, most: 120},
	{name: "outage 2 s (silent)", wrong: entra.Fault{Hang: true}, lasts: 2 * time.Second, want: token, says: saysToken, most: 60},
	{name: "outage 10 s (silent)", wrong: entra.Fault{Hang: true}, lasts: 10 * time.Second, want: token, says: saysToken, most: 60},
	{name: "outage 20 s (silent)", wrong: entra.Fault{Hang: true}, lasts: 20 * time.Second, want: token, says: saysToken, most: 60},
	{name: "outage 60 s (silent)", wrong: entra.Fault{Hang: true}, lasts: time.Minute, want: comeAgain, says: saysComeAgain, most: 60},
	{name: "429, Retry-After: 8", wrong: entra.Fault{Status: 429, RetryAfter: "8"}, lasts: 5 * time.Second, want: tokenAfter(8 * time.Second), says: "a token, not before 8 s", most: 8},
	{name: "429, Retry-After: 40", wrong: entra.Fault{Status: 429, RetryAfter: "40"}, lasts: 20 * time.Second, want: comeAgain, says: saysComeAgain, most: 8},
	{name: "429 without Retry-After, 10 s", wrong: entra.Fault{Status: 429}, lasts: 10 * time.Second, want: token, says: saysToken, most: 30},
	{name: "500s at 50 %, 20 s", wrong: entra.Fault{Status: 500, Share: .5}, lasts: 20 * time.Second, want: token, says: saysToken, most: 90},
	{name: "slow 8 s", wrong: entra.Fault{DelaySeconds: 8}, lasts: 20 * time.Second, want: token, says: saysToken, most: 20},
	{name: "connection reset, 10 s", wrong: entra.Fault{Reset: true}, lasts: 10 * time.Second, want: token, says: saysToken, most: 90},
	{name: "TLS failure, 10 s", wrong: entra.Fault{BadTLS: true}, lasts: 10 * time.Second, want: token, says: saysToken, most: 90},
	{name: "wrong JSON, 10 s", wrong: entra.Fault{NotJSON: true}, lasts: 10 * time.Second, want: token, says: saysToken, most: 90},
	{
		name: "issuer not reachable for 6 s (AADSTS50166)", wrong: entra.Fault{Code: 50166}, lasts: 6 * time.Second,
		want: token, says: saysToken + ", and no event", most: 40,
	},
	{
		name: "identity not replicated for 8 s, new pod (AADSTS700016)", wrong: entra.Fault{Code: 700016}, lasts: 8 * time.Second, age: time.Second,
		want: token, says: saysToken + ", and an event at once", event: "AADSTS700016", most: 40,
	},
	{
		name: "no service principal for 8 s, new pod (AADSTS7000229)", wrong: entra.Fault{Code: 7000229}, lasts: 8 * time.Second, age: time.Second,
		want: token, says: saysToken + ", and an event at once", event: "AADSTS7000229", most: 40,
	},
	{
		name: "wrong subject, pod new for 35 s more (AADSTS700213)", wrong: entra.Fault{Code: 700213}, lasts: 50 * time.Second, age: 85 * time.Second,
		want: refusedLater("AADSTS700213"), says: "an event at once, 429 after 25 s, 400 once it is old", event: "AADSTS700213", most: 110,
	},
	{
		name: "a credential that has worked refused for 6 s (AADSTS700213)", wrong: entra.Fault{Code: 700213}, lasts: 6 * time.Second, worked: true,
		want: token, says: saysToken + ", and no event", most: 40,
	},
	{
		name: "… refused at 30 % for 20 s", wrong: entra.Fault{Code: 700213, Share: .3}, lasts: 20 * time.Second, worked: true,
		want: token, says: saysToken + ", and no event", most: 60,
	},
	{name: "node's clock 10 min ahead", clock: 10 * time.Minute, lasts: 15 * time.Second, want: token, says: saysToken, most: 20},
	{name: "node's clock 10 min behind", clock: -10 * time.Minute, lasts: 15 * time.Second, want: token, says: saysToken, most: 20},
	{name: "Entra's clock 10 min ahead", wrong: entra.Fault{ClockSeconds: 600}, lasts: 15 * time.Second, want: token, says: saysToken, most: 20},
	{name: "Entra's clock 10 min behind", wrong: entra.Fault{ClockSeconds: -600}, lasts: 15 * time.Second, want: refused("AADSTS700024"), says: "400 at once: AADSTS700024", most: 30},
}

// result is what a fault did.
type result struct {
	asked, failed int
	why           string // the first failure's answer
	first, last   []answer
	sent          uint64
	event         string // to the pods' owners, while it lasted
}

// TestFaults prints the table. A row fails if an app whose token is cached
// sees the fault at all, or one without a token sees anything but what is
// documented.
func TestFaults(t *testing.T) {
	suite.Need(t, "test-outages")
	results := make([]result, len(faults))
	t.Run("fault", func(t *testing.T) {
		for i, f := range faults {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				results[i] = f.run(t)
				f.judge(t, results[i])
				t.Log(f.row(results[i]))
			})
		}
	})
	printTable(results)
}

const (
	// between is the pause of an app that asks for its cached token.
	between = 50 * time.Millisecond
	// leastAsked shows that it asked at all while the fault lasted.
	leastAsked = 5
	// toldWithin is how soon owners hear of a first refusal: on a busy machine.
	toldWithin = 5 * time.Second
	// cold is how many apps without a token ask, each as an identity of its own.
	cold = 4
)

func (f fault) run(t *testing.T) (got result) {
	// The token is due for refresh every few seconds, so that refreshes fall
	// into the fault.
	r := newRig(t, setup{refreshIn: 2 * time.Second})
	cached := r.app(0, "cached")
	cached.mustAsk()
	ended := make(chan struct{})
	var load, all sync.WaitGroup
	load.Go(func() { got.load(cached, ended) })
	var without []*app
	for i := range cold {
		without = append(without, r.appAged(1+i, "cold", cmp.Or(f.age, time.Hour)))
		if f.worked {
			another := *without[i]
			another.url += "/"
			another.mustAsk()
		}
	}
	before := r.exchanges()
	r.setFault(f.wrong)
	r.clock.set(f.clock)
	got.first, got.last = make([]answer, cold), make([]answer, cold)
	for i, without := range without {
		all.Go(func() { got.first[i], got.last[i] = without.askUntilAnswered() })
	}
	if f.event != "" {
		time.Sleep(toldWithin)
		got.event = r.noticed.String()
		time.Sleep(f.lasts - toldWithin)
	} else {
		time.Sleep(f.lasts)
		got.event = r.noticed.String()
	}
	got.sent = r.exchanges() - before
	r.setFault(entra.Fault{})
	all.Wait()
	r.app(1+cold, "after").mustAsk()
	close(ended)
	load.Wait()
	return got
}

// load asks for a token that is cached until the fault has ended.
func (got *result) load(a *app, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-time.After(between):
		}
		got.asked++
		switch answered := a.ask(); {
		case answered.status != 200:
			got.fail(answered.String())
		case answered.left < 23*time.Hour || answered.left > 24*time.Hour:
			got.fail(fmt.Sprintf("the token says that it holds for %v", answered.left))
		case answered.took > 5*time.Second:
			got.fail(fmt.Sprintf("the answer took %v", answered.took))
		}
	}
}

func (got *result) fail(why string) {
	if got.failed == 0 {
		got.why = why
	}
	got.failed++
}

func (f fault) judge(t *testing.T, got result) {
	t.Helper()
	if got.failed > 0 || got.asked < leastAsked {
		t.Errorf("cached: %d of %d requests failed: %s", got.failed, got.asked, got.why)
	}
	for i := range got.first {
		if wrong := f.want(got.first[i], got.last[i]); wrong != "" {
			t.Errorf("without a token: %v, then %v: %s", got.first[i], got.last[i], wrong)
		}
	}
	switch n := strings.Count(got.event, f.event+": "); {
	case f.wrong.Code != 0 && f.event == "" && got.event != "":
		t.Errorf("owners were notified of %q", got.event)
	case f.event != "" && n < cold:
		t.Errorf("%d of %d owners were notified of %s: %q", n, cold, f.event, got.event)
	}
	if got.sent > f.most {
		t.Errorf("%d exchanges were sent while it lasted, want %d at most", got.sent, f.most)
	}
}

// row is the fault in the table of all faults.
func (f fault) row(got result) row.Row {
	name := f.name
	if f.clock != 0 {
		name += ", as engine and broker read it"
	}
	return row.Row{
		Fault: name, Expected: "cached: served; without a token: " + f.says,
		Seen: fmt.Sprintf("cached: %d asked, %d failed; without a token: %v", got.asked, got.failed, slowest(got.first)),
	}
}

func printTable(results []result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tCACHED: ASKED/FAILED\tWITHOUT A TOKEN\tEXPECTED\tEXCHANGES SENT")
	for i, f := range faults {
		got := results[i]
		if len(got.first) == 0 {
			fmt.Fprintf(w, "%s\t-\tdid not run\t%s\t-\n", f.name, f.says)
			continue
		}
		seen := fmt.Sprint(slowest(got.first))
		if got.first[0].status == 429 {
			seen += fmt.Sprintf("; then %v", slowest(got.last))
		}
		fmt.Fprintf(w, "%s\t%d/%d\t%s\t%s\t%d\n", f.name, got.asked, got.failed, seen, f.says, got.sent)
	}
	_ = w.Flush()
}

// slowest returns the answer that took longest.
func slowest(all []answer) answer {
	worst := all[0]
	for _, a := range all {
		if a.took > worst.took {
			worst = a
		}
	}
	return worst
}
