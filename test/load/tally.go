package load

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

// Tally counts the results. Nothing was tried twice.
type Tally struct {
	Requests, Failed, Reset, Wrong int
	Closing                        int       // answers with Connection: close
	Notes                          []string  // on the first that went wrong
	Failures                       []Failure // the first of them
}

// Failure is when and how one request went wrong.
type Failure struct {
	// Alive is when the other end was last heard on the connection, or, on a
	// new one, when it was dialled. At is when the request was given up.
	Alive, At time.Time
	Reset     bool
	Status    int    // of the answer; 0: none came
	Client    string // whose token came, if it was another's
	Note      string // for people
}

// Bad returns how many requests did not bring the right token.
func (t *Tally) Bad() int { return t.Failed + t.Reset + t.Wrong }

const (
	maxNotes    = 20
	maxFailures = 4096
)

// Add adds another tally.
func (t *Tally) Add(o Tally) {
	t.Requests += o.Requests
	t.Failed += o.Failed
	t.Reset += o.Reset
	t.Wrong += o.Wrong
	t.Closing += o.Closing
	notes := slices.Concat(t.Notes, o.Notes) // others read the old ones
	t.Notes = notes[:min(len(notes), maxNotes)]
	if len(o.Failures) > 0 {
		failures := slices.Concat(t.Failures, o.Failures)
		t.Failures = failures[:min(len(failures), maxFailures)]
	}
}

// statusError is an answer other than 200.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("answer %d: %s", e.status, e.body) }

// wrongError is a token that is another's.
type wrongError struct{ client string }

func (e *wrongError) Error() string { return "the token of " + e.client }

// judge counts one request's error.
func judge(err error, alive time.Time) Tally {
	if err == nil {
		return Tally{}
	}
	t := Tally{Notes: []string{err.Error()}}
	f := Failure{Alive: alive, At: time.Now(), Note: err.Error()}
	var wrong *wrongError
	var answer *statusError
	switch {
	case errors.As(err, &wrong):
		t.Wrong, f.Client = 1, wrong.client
	case errors.As(err, &answer):
		t.Failed, f.Status = 1, answer.status
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		t.Reset, f.Reset = 1, true
	default:
		t.Failed = 1
	}
	t.Failures = []Failure{f}
	return t
}

// check fails unless the answer has the client's token: by what it says of
// itself, and by what the token says.
func check(status int, body []byte, want string) error {
	var token struct {
		ClientID    string `json:"client_id"`
		AccessToken string `json:"access_token"`
	}
	if status != http.StatusOK {
		return &statusError{status, string(body)}
	}
	if err := json.Unmarshal(body, &token); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	payload, err := jwks.Payload(token.AccessToken)
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	var claims accesstoken.Claims
	if err := json.Unmarshal(payload, &claims); err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	for _, client := range []string{claims.AppID, token.ClientID} {
		if client != want {
			return &wrongError{cmp.Or(client, "nobody")}
		}
	}
	return nil
}
