package tokens

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/tokens/podfile"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Nothing may be sent to Entra on account of an assertion that is not the
// pod's own or cannot be had.
func TestAssertionIsCheckedBeforeAnythingIsSent(t *testing.T) {
	claim := func(change func(jwt.MapClaims)) func(*bench, *workload.Workload) {
		return func(b *bench, w *workload.Workload) { b.write(*w, b.assertion(*w, change)) }
	}
	link := func(target string) func(*bench, *workload.Workload) {
		return func(b *bench, w *workload.Workload) {
			file := filepath.Join(b.volume(*w), w.Projected.Path)
			if err := os.Remove(file); err != nil {
				b.t.Fatal(err)
			}
			if err := os.Symlink(strings.ReplaceAll(target, "DIR", b.dir), file); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name    string
		spoil   func(*bench, *workload.Workload)
		kind    workload.TokenErrorKind
		mention string
	}{
		{"another subject", claim(func(c jwt.MapClaims) { c["sub"] = "system:serviceaccount:kube-system:admin" }), workload.Refused, "system:serviceaccount:shop:cart"},
		{"another audience", claim(func(c jwt.MapClaims) { c["aud"] = []string{"https://kubernetes.default.svc"} }), workload.Refused, workload.TokenAudience},
		{"another pod", claim(func(c jwt.MapClaims) {
			c["kubernetes.io"] = map[string]any{"pod": map[string]any{"uid": "other"}}
		}), workload.Refused, "not bound to this pod"},
		{"no pod", claim(func(c jwt.MapClaims) { delete(c, "kubernetes.io") }), workload.Refused, "not bound to this pod"},
		{"expired", claim(func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Minute).Unix() }), workload.Unavailable, "expired"},
		{"no expiry", claim(func(c jwt.MapClaims) { delete(c, "exp") }), workload.Refused, "expiry"},
		{"not a JWT", func(b *bench, w *workload.Workload) { b.write(*w, "eyJzZWNyZXQi") }, workload.Refused, "not a JWT"},
		{"too long", func(b *bench, w *workload.Workload) { b.write(*w, strings.Repeat("a", podfile.MaxSize+1)) }, workload.Refused, "too long"},
		{"no volume", func(_ *bench, w *workload.Workload) { w.Projected = nil }, workload.Refused, "webhook"},
		{"not written yet", func(b *bench, w *workload.Workload) { _ = os.RemoveAll(b.volume(*w)) }, workload.Unavailable, "not written"},
		{"pod's directory gone", func(b *bench, w *workload.Workload) { _ = os.RemoveAll(filepath.Join(b.dir, "pods", w.PodUID)) }, workload.Unavailable, "not written"},
		{"absolute link to another pod", link("DIR/pods/pod-shop-admin-v/volumes/kubernetes.io~projected/azure-identity-token/token/azure-identity-token"), workload.Refused, "own directory"},
		{"relative link to another pod", link("../../../../../../pod-shop-admin-v/volumes/kubernetes.io~projected/azure-identity-token/token/azure-identity-token"), workload.Refused, "own directory"},
		{"link through proc", link("/proc/self/environ"), workload.Refused, "own directory"},
		{"a pipe", func(b *bench, w *workload.Workload) {
			file := filepath.Join(b.volume(*w), w.Projected.Path)
			_ = os.Remove(file)
			if err := unix.Mkfifo(file, 0o600); err != nil {
				b.t.Fatal(err)
			}
		}, workload.Refused, "own directory"},
		{"path that climbs", func(_ *bench, w *workload.Workload) { w.Projected.Path = "../azure-identity-token/token" }, workload.Refused, "path"},
		{"volume that climbs", func(_ *bench, w *workload.Workload) { w.Projected.Volume = ".." }, workload.Refused, "path"},
		{"volume with a slash", func(_ *bench, w *workload.Workload) { w.Projected.Volume = "a/b" }, workload.Refused, "path"},
		{"absolute path", func(_ *bench, w *workload.Workload) { w.Projected.Path = "/token" }, workload.Refused, "path"},
		{"UID that climbs", func(_ *bench, w *workload.Workload) { w.PodUID = "../pods" }, workload.Refused, "path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				w := b.pod("shop", "cart", "web")
				b.pod("shop", "admin", "v")
				tt.spoil(b, &w)
				_, err := b.token(w, workload.TokenRequest{Resource: vault})
				wantTokenError(t, err, tt.kind, tt.mention)
				if n := b.entra.exchanges() + len(b.entra.discoveries); n != 0 {
					t.Errorf("%d requests were sent", n)
				}
			})
		})
	}
}

// A pod without a usable assertion must not fail the other pods of its
// service account: one that waited for it goes on with its own assertion.
func TestAssertionFailureStaysWithItsPod(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		noVolume, notWritten := b.pod("shop", "cart", "a"), b.pod("shop", "cart", "b")
		noVolume.Projected = nil
		if err := os.RemoveAll(b.volume(notWritten)); err != nil {
			t.Fatal(err)
		}
		r := workload.TokenRequest{Resource: vault}
		asked, err := b.engine.defaults.target(noVolume, r)
		if err != nil {
			t.Fatal(err)
		}
		k := key{account: noVolume.ServiceAccountUID, target: asked}
		l := b.engine.cache.look(k, noVolume, false).(pending) // this pod leads
		got := make(chan error, 1)
		go func() {
			_, err := b.token(notWritten, r)
			got <- err
		}()
		synctest.Wait() // the other waits for it
		b.engine.run(k, l.call, noVolume)
		wantTokenError(t, <-got, workload.Unavailable, "not written")
		b.mustToken(b.pod("shop", "cart", "good"), r)
		_, err = b.token(noVolume, workload.TokenRequest{Resource: "https://other"})
		wantTokenError(t, err, workload.Refused, "webhook")
		b.mustToken(b.pod("shop", "cart", "good"), workload.TokenRequest{Resource: "https://other"})
	})
}

func TestAssertionIsReadAgainForEachExchange(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		w := b.pod("shop", "cart", "web")
		b.mustToken(w, workload.TokenRequest{Resource: vault})
		renewed := b.assertion(w, func(c jwt.MapClaims) { c["jti"] = "renewed" })
		b.write(w, renewed+"\n")
		b.mustToken(w, workload.TokenRequest{Resource: vault + "/"})
		if got := b.entra.forms[1].Get("client_assertion"); got != renewed {
			t.Errorf("sent %q, want the renewed assertion", got)
		}
	})
}
