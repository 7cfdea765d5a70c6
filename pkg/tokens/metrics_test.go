package tokens

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Whatever is in the table of codes is counted by its own code.
func TestCodesOfTheTableAreCounted(t *testing.T) {
	for row := range aadsts.All() {
		if got := codeLabel(&workload.TokenError{Code: row.Code}, false); got != row.Code {
			t.Errorf("%s is counted as %s", row.Code, got)
		}
	}
}

// No label takes a value that was not there from the start, whatever Entra and
// the pods do.
func TestMetricsHaveNoNewChildren(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		before, err := testutil.GatherAndCount(b.reg)
		if err != nil {
			t.Fatal(err)
		}
		b.run()
		w := b.pod("shop", "cart", "web")
		for _, answer := range []struct {
			status, code int
			name         string
		}{{401, 700213, "invalid_client"}, {400, 500011, "invalid_resource"}, {503, 90033, "temporarily_unavailable"}, {400, 4711, "odd"}, {200, 0, ""}} {
			b.entra.set(func(f *fakeEntra) {
				f.refuse = nil
				if answer.status != 200 {
					f.refuse = refusing(answer.status, answer.code, answer.name, answer.name)
				}
			})
			_, _ = b.token(w, workload.TokenRequest{Resource: vault})
			b.advance(time.Minute)
		}
		b.mustToken(w, workload.TokenRequest{Resource: vault})
		b.advance(50 * time.Minute)
		if after, err := testutil.GatherAndCount(b.reg); err != nil || after != before {
			t.Errorf("%d series and error %v, want the %d of the start", after, err, before)
		}
	})
}

func TestOverdueTokensAreCounted(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.run()
		overdue := func(want int) {
			t.Helper()
			if got := b.engine.cache.overdue(); got != want {
				t.Errorf("%d tokens are overdue, want %d", got, want)
			}
		}
		w := b.pod("shop", "cart", "web")
		b.mustToken(w, workload.TokenRequest{Resource: vault})
		b.entra.set(func(f *fakeEntra) { f.refuse = refusing(503, 0, "", "") })
		b.advance(50 * time.Minute) // a refresh is tried in vain, and there is time left
		overdue(0)
		b.advance(6 * time.Minute)
		overdue(1)
		b.write(w, b.assertion(w, nil))
		b.entra.set(func(f *fakeEntra) { f.refuse = nil })
		b.advance(2 * time.Minute)
		overdue(0)
	})
}
