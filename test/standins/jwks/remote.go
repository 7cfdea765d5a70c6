package jwks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"
)

var (
	// ErrMalformed means that the text is not a JWT signed with RS256.
	ErrMalformed = errors.New("not a JWT that is signed with RS256")
	// ErrUnknownKey means that the issuer publishes no key by the token's key
	// id.
	ErrUnknownKey = errors.New("the issuer has no such key")
	// ErrSignature means that the key that the token names did not sign it.
	ErrSignature = errors.New("the signature is wrong")
	// ErrUnreachable means that the issuer's key set cannot be had.
	ErrUnreachable = errors.New("the issuer's keys cannot be fetched")
)

const maxDocument = 1 << 20

// Remote verifies tokens by key sets that it fetches. It keeps each set until
// a token names a key that is not in it. It is safe for concurrent use.
type Remote struct {
	client *http.Client

	mu   sync.Mutex
	sets map[string]jose.JSONWebKeySet // by URL of the discovery document
}

// NewRemote returns a Remote that fetches with client.
func NewRemote(client *http.Client) *Remote {
	return &Remote{client: client, sets: map[string]jose.JSONWebKeySet{}}
}

// ConfigurationOf returns the URL of an issuer's discovery document.
func ConfigurationOf(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// Payload returns a token's claims without any verification, for a caller
// that must know the issuer to find its keys. The error is ErrMalformed.
func Payload(token string) ([]byte, error) {
	parsed, err := parse(token)
	if err != nil {
		return nil, err
	}
	return parsed.UnsafePayloadWithoutVerification(), nil
}

// Verify returns the claims of a token that is signed by a key of the set to
// which the discovery document at configuration (a URL) leads. The error is
// ErrMalformed, ErrUnknownKey, ErrSignature or ErrUnreachable.
func (r *Remote) Verify(ctx context.Context, configuration, token string) ([]byte, error) {
	parsed, err := parse(token)
	if err != nil {
		return nil, err
	}
	key, err := r.key(ctx, configuration, parsed.Signatures[0].Protected.KeyID)
	if err != nil {
		return nil, err
	}
	payload, err := parsed.Verify(key)
	if err != nil {
		return nil, ErrSignature
	}
	return payload, nil
}

func parse(token string) (*jose.JSONWebSignature, error) {
	parsed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, ErrMalformed
	}
	return parsed, nil
}

func (r *Remote) key(ctx context.Context, configuration, id string) (jose.JSONWebKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.sets[configuration]
	if keys := known.Key(id); len(keys) > 0 {
		return keys[0], nil
	}
	set, err := r.fetch(ctx, configuration)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	r.sets[configuration] = set
	if keys := set.Key(id); len(keys) > 0 {
		return keys[0], nil
	}
	return jose.JSONWebKey{}, ErrUnknownKey
}

func (r *Remote) fetch(ctx context.Context, configuration string) (jose.JSONWebKeySet, error) {
	var document struct {
		Keys string `json:"jwks_uri"`
	}
	if err := r.get(ctx, configuration, &document); err != nil {
		return jose.JSONWebKeySet{}, err
	}
	var set jose.JSONWebKeySet
	if err := r.get(ctx, document.Keys, &set); err != nil {
		return jose.JSONWebKeySet{}, err
	}
	return set, nil
}

func (r *Remote) get(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	return nil
}
