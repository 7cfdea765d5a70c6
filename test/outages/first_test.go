package outages

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/suite"
)

// A node's start: all of its applications ask at the same time, and none has
// asked before.
func TestThousandFirstRequestsAreTwentyExchanges(t *testing.T) {
	suite.Need(t, "test-outages")
	const podsEach, requestsEach = 5, 10
	r := newRig(t, setup{delay: 500 * time.Millisecond})
	var apps []*app
	for i := range identities {
		for p := range podsEach {
			apps = append(apps, r.app(i, fmt.Sprintf("web-%d", p)))
		}
	}
	start := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	tokens, answered := make(map[string]int), 0
	for _, a := range apps {
		for range requestsEach {
			all.Go(func() {
				<-start
				got := a.ask()
				mu.Lock()
				defer mu.Unlock()
				if got.status != http.StatusOK {
					t.Errorf("%v", got)
					return
				}
				tokens[got.token]++
				answered++
			})
		}
	}
	close(start)
	all.Wait()
	exchanges, discoveries := len(r.asked(entra.Token)), len(r.asked(entra.OpenIDConfiguration))
	t.Logf("%d requests of %d pods were answered: %d exchanges, %d discovery", answered, len(apps), exchanges, discoveries)
	if exchanges != identities || len(tokens) != identities || answered != identities*podsEach*requestsEach {
		t.Errorf("%d exchanges and %d tokens for %d identities", exchanges, len(tokens), identities)
	}
	if discoveries != 1 {
		t.Errorf("%d discovery requests, want 1", discoveries)
	}
	for _, n := range tokens {
		if n != podsEach*requestsEach {
			t.Errorf("a token went to %d requests, want %d", n, podsEach*requestsEach)
		}
	}
}
