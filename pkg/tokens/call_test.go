package tokens

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// gate holds exchanges of one client until it is opened.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
}

func (b *bench) hold(client string) gate {
	g := gate{make(chan struct{}, maxNodeCalls), make(chan struct{})}
	b.entra.set(func(f *fakeEntra) {
		f.refuse = func(_ http.ResponseWriter, form url.Values) bool {
			if form.Get("client_id") == client {
				g.arrived <- struct{}{}
				<-g.open
			}
			return false
		}
	})
	return g
}

func TestManyCallersShareOneExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		g := b.hold(clientA)
		var ready, done sync.WaitGroup
		for i := range 100 {
			w := b.pod("shop", "cart", "web-"+strconv.Itoa(i))
			ready.Add(1)
			done.Go(func() {
				ready.Done()
				if _, err := b.token(w, workload.TokenRequest{Resource: vault}); err != nil {
					t.Error(err)
				}
			})
		}
		ready.Wait()
		<-g.arrived
		close(g.open)
		done.Wait()
		if n := b.entra.exchanges(); n != 1 {
			t.Errorf("%d exchanges for 100 callers, want 1", n)
		}
	})
}

func TestCanceledCallerDoesNotFailTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		g := b.hold(clientA)
		w := b.pod("shop", "cart", "web")
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() {
			_, err := b.engine.Token(ctx, w, workload.TokenRequest{Resource: vault})
			first <- err
		}()
		<-g.arrived
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("first caller: %v, want context.Canceled", err)
		}
		second := make(chan error, 1)
		go func() {
			_, err := b.token(w, workload.TokenRequest{Resource: vault})
			second <- err
		}()
		close(g.open)
		if err := <-second; err != nil {
			t.Errorf("second caller: %v", err)
		}
		if n := b.entra.exchanges(); n != 1 {
			t.Errorf("%d exchanges, want 1", n)
		}
	})
}

func TestOtherKeysDoNotWait(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		g := b.hold(clientA)
		w := b.pod("shop", "cart", "web")
		held := make(chan error, 1)
		go func() {
			_, err := b.token(w, workload.TokenRequest{Resource: vault})
			held <- err
		}()
		<-g.arrived
		b.mustToken(w, workload.TokenRequest{Resource: vault, ClientID: clientB})
		close(g.open)
		if err := <-held; err != nil {
			t.Error(err)
		}
	})
}

func TestOneAccountCannotTakeAllExchanges(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		g := b.hold(clientA)
		w := b.pod("shop", "greedy", "web")
		var all sync.WaitGroup
		for i := range maxCalls {
			all.Go(func() {
				_, _ = b.token(w, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(i)})
			})
		}
		for range maxCalls {
			<-g.arrived
		}
		err := b.once(w, workload.TokenRequest{Resource: vault})
		wantTokenError(t, err, workload.Unavailable, "too many")
		modest := b.pod("shop", "modest", "web")
		b.mustToken(modest, workload.TokenRequest{Resource: vault, ClientID: clientB})
		close(g.open)
		all.Wait()
		b.mustToken(w, workload.TokenRequest{Resource: vault})
	})
}

// However many accounts take all that they can get, there is one exchange left
// for who comes next.
func TestAccountsCannotTakeAllExchangesTogether(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		g := b.hold(clientA)
		var all sync.WaitGroup
		const accounts = 8
		for i := range accounts {
			w := b.pod("shop", "greedy-"+strconv.Itoa(i), "web")
			for j := range maxCalls {
				all.Go(func() {
					_ = b.once(w, workload.TokenRequest{Resource: "https://r" + strconv.Itoa(j)})
				})
			}
		}
		all.Wait()
		if n := b.engine.cache.underWay(); n < maxNodeCalls/2 || n >= maxNodeCalls {
			t.Errorf("%d exchanges are under way of %d, want that most are and some are left", n, maxNodeCalls)
		}
		modest := b.pod("shop", "modest", "web")
		began := time.Now()
		b.mustToken(modest, workload.TokenRequest{Resource: vault, ClientID: clientB})
		if took := time.Since(began); took != 0 {
			t.Errorf("another account waited %v", took)
		}
		err := b.once(b.pod("shop", "greedy-0", "web"), workload.TokenRequest{Resource: vault})
		wantTokenError(t, err, workload.Unavailable, "too many")
		close(g.open)
	})
}
