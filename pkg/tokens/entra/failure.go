package entra

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	msal "github.com/AzureAD/microsoft-authentication-library-for-go/apps/errors"

	"github.com/sidestep-agent/sidestep/pkg/tokens/aadsts"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	maxDescription = 600 // runes
	// MaxRetryAfter bounds how long a caller is asked to wait.
	MaxRetryAfter = time.Hour
)

var errUnreadable = errors.New("MSAL cannot use the answer")

// statusError is an answer of Entra other than 200.
type statusError int

func (s statusError) Error() string { return "HTTP status " + strconv.Itoa(int(s)) }

// unsentError is a failure before the assertion was sent: of discovery, which
// is the same for all clients of the tenant.
type unsentError struct{ error }

func (e unsentError) Unwrap() error { return e.error }

// Whose returns what the failure of an exchange says something about: what
// Entra answers, about the client that asked, unless its code says otherwise;
// everything else about the way there.
func Whose(e *workload.TokenError) aadsts.Whose {
	if row, ok := aadsts.Lookup(e.Code); ok {
		return row.Whose
	}
	var status statusError
	var unsent unsentError
	switch {
	case errors.As(e.Err, &unsent):
		return aadsts.Way
	case errors.As(e.Err, &status), errors.Is(e.Err, errUnreadable):
		return aadsts.Client
	}
	return aadsts.Way
}

// Throttled reports whether Entra asks to be left alone for a while.
func Throttled(e *workload.TokenError) bool {
	var status statusError
	return e.RetryAfter > 0 || errors.As(e.Err, &status) && int(status) == http.StatusTooManyRequests
}

// Unreachable reports whether no answer came.
func Unreachable(e *workload.TokenError) bool {
	var network *url.Error
	return errors.As(e, &network) || errors.Is(e, context.DeadlineExceeded)
}

// exchangeError turns an error of MSAL into the package's own. MSAL's error
// holds the whole request and answer, assertion and token included, so it goes
// no further than here once the assertion was sent.
func exchangeError(err error, sent bool, now time.Time) *workload.TokenError {
	var call msal.CallErr
	var network *url.Error
	switch {
	case errors.As(err, &call) && call.Resp != nil:
		e := answerError(call.Resp, now)
		if !sent {
			e.Err = unsentError{e.Err}
		}
		return e
	case errors.Is(err, errForeignEndpoint):
		e := refused("the authority's token endpoint is at another host: fix AZURE_AUTHORITY_HOST or --authority-host")
		e.Err = errForeignEndpoint
		return e
	case errors.Is(err, context.DeadlineExceeded):
		e := unavailable("Entra did not answer in time")
		e.Err = context.DeadlineExceeded
		return e
	case errors.As(err, &network):
		e := unavailable("Entra cannot be reached")
		e.Err = network
		return e
	}
	e := unavailable("Entra's answer cannot be understood")
	e.Err = errUnreadable
	if !sent {
		e.Err = unsentError{err}
	}
	return e
}

// answerError reads what Entra said.
func answerError(resp *http.Response, now time.Time) *workload.TokenError {
	// MSAL has put the body back after reading it. A body that cannot be read
	// leaves the status to tell the kind.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	said := parseEntraError(body)
	if sent, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now = sent // a date in the answer is by Entra's clock
	}
	e := &workload.TokenError{
		Kind:        kindOf(resp.StatusCode, said),
		Code:        said.code,
		Description: said.description,
		RetryAfter:  retryAfter(resp.Header.Get("Retry-After"), now),
		Err:         statusError(resp.StatusCode),
	}
	if e.Description == "" {
		e.Description = fmt.Sprintf("Entra answered with HTTP status %d", resp.StatusCode)
	}
	return e
}

func kindOf(status int, said entraError) workload.TokenErrorKind {
	row, known := aadsts.Lookup(said.code)
	switch {
	case known && row.Kind == aadsts.Transient, said.name == "temporarily_unavailable":
		return workload.Unavailable
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout,
		status < 400, status >= 500:
		return workload.Unavailable
	case row.Resource, said.name == "invalid_resource", said.name == "invalid_scope":
		return workload.InvalidResource
	}
	return workload.Refused
}

// entraError is what the body of a refusal says.
type entraError struct {
	name        string // OAuth's, as "invalid_client"
	code        string // as "AADSTS70021", or empty
	description string // one line
}

// parseEntraError reads an error body. Parts that are missing or of another
// type than Entra's stay empty.
func parseEntraError(body []byte) entraError {
	var b struct {
		Error       string `json:"error"`
		Codes       []int  `json:"error_codes"`
		Description string `json:"error_description"`
	}
	// On a field of a wrong type the others are still filled in.
	_ = json.Unmarshal(body, &b)
	e := entraError{name: b.Error, description: OneLine(b.Description)}
	if len(b.Codes) > 0 && b.Codes[0] > 0 {
		e.code = "AADSTS" + strconv.Itoa(b.Codes[0])
	}
	return e
}

var (
	// Entra ends its descriptions with what only its support can use.
	supportIDs = regexp.MustCompile(`\s*(Trace ID|Correlation ID|Timestamp):`)
	// A host that is not Entra may echo the assertion.
	jwtLike = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)*`)
)

// OneLine returns the part of a description that helps its reader.
func OneLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, "\r\n"); i >= 0 {
		s = s[:i]
	}
	if at := supportIDs.FindStringIndex(s); at != nil {
		s = s[:at[0]]
	}
	s = jwtLike.ReplaceAllString(strings.ToValidUTF8(s, "�"), "[redacted]")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxDescription {
		s = string(r[:maxDescription])
	}
	return strings.TrimSpace(s)
}

// retryAfter reads the header in both its forms (RFC 9110, 10.2.3); 0 if there
// is none.
func retryAfter(header string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.Atoi(header); err == nil {
		d = time.Duration(min(seconds, int(MaxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), MaxRetryAfter)
}

func refused(format string, args ...any) *workload.TokenError {
	return workload.TokenErrorf(workload.Refused, format, args...)
}

func unavailable(format string, args ...any) *workload.TokenError {
	return workload.TokenErrorf(workload.Unavailable, format, args...)
}
