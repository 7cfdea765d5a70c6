package jwks

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// issuer publishes the key that it holds now.
type issuer struct {
	*httptest.Server
	key     atomic.Pointer[Key]
	fetches atomic.Int32
}

func newIssuer(t *testing.T, k *Key) *issuer {
	t.Helper()
	i := &issuer{}
	i.key.Store(k)
	mux := http.NewServeMux()
	mux.HandleFunc("/configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"jwks_uri": i.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.fetches.Add(1)
		_ = json.NewEncoder(w).Encode(i.key.Load().Public())
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

func newKey(t *testing.T) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t *testing.T, k *Key, claims any) string {
	t.Helper()
	token, err := k.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestForgeriesAreRefused(t *testing.T) {
	own, foreign := newKey(t), newKey(t)
	i := newIssuer(t, own)
	good := sign(t, own, map[string]string{"sub": "a"})
	parts := strings.Split(good, ".")
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	impostor := &Key{private: foreign.private, id: own.id}
	impostor.signer, _ = jose.NewSigner(jose.SigningKey{
		Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: foreign.private, KeyID: own.id}}, nil)

	tests := []struct {
		name, token string
		want        error
	}{
		{"genuine", good, nil},
		{"other claims under its signature", parts[0] + "." + part(`{"sub":"b"}`) + "." + parts[2], ErrSignature},
		{"another's key under its key id", sign(t, impostor, map[string]string{"sub": "a"}), ErrSignature},
		{"another's key", sign(t, foreign, map[string]string{"sub": "a"}), ErrUnknownKey},
		{"unsigned", part(`{"alg":"none"}`) + "." + parts[1] + ".", ErrMalformed},
		{"public key as a shared secret", part(`{"alg":"HS256","kid":"`+own.id+`"}`) + "." + parts[1] + "." + parts[2], ErrMalformed},
		{"no token", "x", ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewRemote(i.Client()).Verify(t.Context(), i.URL+"/configuration", tt.token)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRotatedKeyIsFetched(t *testing.T) {
	first, second := newKey(t), newKey(t)
	i := newIssuer(t, first)
	r := NewRemote(i.Client())
	verify := func(k *Key) {
		t.Helper()
		if _, err := r.Verify(t.Context(), i.URL+"/configuration", sign(t, k, map[string]string{})); err != nil {
			t.Fatal(err)
		}
	}
	verify(first)
	verify(first)
	if got := i.fetches.Load(); got != 1 {
		t.Errorf("%d fetches for one key, want 1", got)
	}
	i.key.Store(second)
	verify(second)
}

func TestUnreachableIssuer(t *testing.T) {
	i := newIssuer(t, newKey(t))
	_, err := NewRemote(i.Client()).Verify(t.Context(), i.URL+"/nothing", sign(t, newKey(t), map[string]string{}))
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("error %v, want %v", err, ErrUnreachable)
	}
}

func TestKeyOutlivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing.key")
	before, err := OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	after, err := OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if before.id != after.id || !before.private.Equal(after.private) {
		t.Error("the key in the file is not the one that was made")
	}
}
