package tokens

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// A pod that comes finds a connection that was used lately, and one that comes
// soon after costs nothing.
func TestWarmForPods(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		own := b.pod("shop", "cart", "web")
		other := own
		other.TenantID = "contoso.example"
		bound, broken, foreign := own, own, own
		bound.Binding = &workload.IdentityBinding{TokenProxy: "https://kubernetes.default.svc"}
		broken.TenantID = "common"
		foreign.AuthorityHost = "https://elsewhere.test"
		warm := func(all ...workload.Workload) {
			t.Helper()
			for _, w := range all {
				if err := b.engine.Warm(t.Context(), w); err != nil {
					t.Error(err)
				}
			}
		}
		want := func(own, other int) {
			t.Helper()
			if diff := cmp.Diff(map[string]int{
				"/" + tenantA + "/v2.0/.well-known/openid-configuration": own, "/contoso.example" + "/v2.0/.well-known/openid-configuration": other,
			}, b.entra.discoveries); diff != "" {
				t.Errorf("discovery requests (-want +got):\n%s", diff)
			}
		}
		warm(own, other, bound, broken, foreign, own, workload.Workload{})
		want(1, 1)
		b.advance(warmAgain - time.Second)
		warm(own, other)
		want(1, 1)
		b.advance(time.Second)
		warm(own, own)
		want(2, 1)
	})
}

func TestWarmIsTriedAgainAfterFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		for _, down := range []bool{true, true, false} {
			b.entra.set(func(f *fakeEntra) { f.down = down })
			if err := b.engine.Warm(t.Context(), w); (err != nil) != down {
				t.Errorf("Warm with Entra down %t: %v", down, err)
			}
		}
	})
}
