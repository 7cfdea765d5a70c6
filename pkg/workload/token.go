package workload

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// TokenRequest is what a caller asks for in IMDS's words. At most one of
// ClientID, ObjectID and ResourceID is set; none means the workload's default
// identity.
type TokenRequest struct {
	Resource    string // as decoded, never changed
	ClientID    string
	ObjectID    string // object_id or principal_id
	ResourceID  string // mi_res_id, msi_res_id or msi-res-id
	BypassCache bool
}

// Selects reports whether the request names an identity of its own.
func (r TokenRequest) Selects() bool {
	return r.ClientID != "" || r.ObjectID != "" || r.ResourceID != ""
}

// Token is an access token that Entra issued to a workload.
type Token struct {
	Value     string // secret
	Type      string // "Bearer"
	ClientID  string
	NotBefore time.Time
	ExpiresOn time.Time
	// Made is shared by all copies of the token as it was issued.
	Made *Memo `json:"-"`
}

// Memo keeps one value that somebody makes of a token, so that it is made once
// and is gone when the token is. Its methods may be called from several
// goroutines; a nil Memo keeps nothing.
type Memo struct{ value atomic.Pointer[any] }

// Load returns the value that is kept, or nil.
func (m *Memo) Load() any {
	if m == nil {
		return nil
	}
	if v := m.value.Load(); v != nil {
		return *v
	}
	return nil
}

// Store keeps a value in place of the last one.
func (m *Memo) Store(v any) {
	if m != nil {
		m.value.Store(&v)
	}
}

// Equal makes tokens comparable by what Entra said.
func (m *Memo) Equal(*Memo) bool { return true }

// Format implements fmt.Formatter: whatever prints a Token, by whichever verb,
// leaves its value out.
func (t Token) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "token of %s until %s", t.ClientID, t.ExpiresOn.UTC().Format(time.RFC3339))
}

// LogValue implements slog.LogValuer, without the value.
func (t Token) LogValue() slog.Value {
	return slog.GroupValue(slog.String("client_id", t.ClientID), slog.Time("expires_on", t.ExpiresOn))
}

// TokenErrorKind says who can fix a failed token request.
type TokenErrorKind uint8

const (
	// Unavailable means that nothing needs a fix; the same request may work later.
	Unavailable TokenErrorKind = iota
	// IdentityNotFound means that the request names an identity that this service
	// account is not mapped to, or the service account has none.
	IdentityNotFound
	// InvalidResource means that Entra does not know the resource asked for.
	InvalidResource
	// Refused means that Entra refuses the set-up (no federated credential, unknown
	// client, wrong tenant, …) or the assertion cannot be had.
	Refused
)

// String returns the kind's name as metrics and logs show it.
func (k TokenErrorKind) String() string {
	switch k {
	case IdentityNotFound:
		return "identity_not_found"
	case InvalidResource:
		return "invalid_resource"
	case Refused:
		return "refused"
	default:
		return "unavailable"
	}
}

// TokenError tells why there is no token.
type TokenError struct {
	Kind TokenErrorKind
	// Code is Entra's, as "AADSTS70021"; empty where Entra said nothing.
	Code string
	// Description is one line for the caller. It has no secrets in it.
	Description string
	// Meaning says in plain words what Code means for the workload; empty where
	// that is not known. It has no secrets in it.
	Meaning string
	// Fix is a shell command that fixes the cause; empty where none can. It
	// has no secrets in it.
	Fix string
	// RetriedUntil is set where Entra refuses what it may not know of yet: the
	// same is retried until then, and is an error of kind Refused after it.
	RetriedUntil time.Time
	// RetryAfter is how long to wait before asking again; 0 if not known.
	RetryAfter time.Duration
	// Err is the cause, for the log only; may be nil.
	Err error
}

// TokenErrorf returns an error of the kind with the description.
func TokenErrorf(kind TokenErrorKind, format string, args ...any) *TokenError {
	return &TokenError{Kind: kind, Description: fmt.Sprintf(format, args...)}
}

// Error returns the kind, the code and the description.
func (e *TokenError) Error() string {
	s := e.Kind.String()
	if e.Code != "" {
		s += ": " + e.Code
	}
	return s + ": " + e.Description
}

// Unwrap returns the cause.
func (e *TokenError) Unwrap() error { return e.Err }
