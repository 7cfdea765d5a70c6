package tokens

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/tokens/entra"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

type noTransport struct{}

func (noTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, errDown }

// newFilled returns an engine with a token for each of the workloads.
func newFilled(b *testing.B, accounts int) (*Engine, []workload.Workload) {
	b.Helper()
	e, err := New(Options{
		KubeletDir: b.TempDir(), TenantID: tenantA, Transport: noTransport{},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	var all []workload.Workload
	for i := range accounts {
		w := workload.Workload{
			PodUID: fmt.Sprintf("pod-%d", i), Namespace: "shop", ServiceAccount: "cart", ServiceAccountUID: fmt.Sprintf("uid-%d", i),
			ClientID: clientA, AuthorityHost: "https://login.microsoftonline.com/", ServiceAccountSeen: true,
		}
		t, err := e.defaults.target(w, workload.TokenRequest{Resource: vault})
		if err != nil {
			b.Fatal(err)
		}
		now := e.clocks.Now()
		e.cache.store(key{account: w.ServiceAccountUID, target: t},
			newEntry(entra.Grant{Token: "token", Lifetime: 24 * time.Hour}, clientA, now), now.Steady)
		all = append(all, w)
	}
	return e, all
}

// BenchmarkCached is a token from the cache of a node with 50 identities, by
// one goroutine and by several.
func BenchmarkCached(b *testing.B) {
	e, all := newFilled(b, 50)
	r := workload.TokenRequest{Resource: vault}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, ok := e.Cached(all[i%len(all)], r); !ok {
				b.Fatal("not cached")
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				if _, ok := e.Cached(all[i%len(all)], r); !ok {
					b.Fail()
				}
			}
		})
	})
}
