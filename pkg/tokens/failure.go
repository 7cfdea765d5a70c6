package tokens

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

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

const (
	maxDescription = 600 // runes
	maxRetryAfter  = time.Hour
	// federationDelay is how long a new federated credential may take until
	// all of Entra has seen it.
	federationDelay = 2 * time.Minute
	// maxSkew is how far the node's clock may be behind the API server's, whose
	// clock dates new objects.
	maxSkew = 15 * time.Minute
)

// Entra's codes that mean something else than their HTTP status.
// https://learn.microsoft.com/entra/identity-platform/reference-error-codes
var (
	transientCodes = map[string]bool{
		"AADSTS50196": true, // a client looped; passes by itself
		"AADSTS90006": true, // an external server can be retried
		"AADSTS90024": true, // request budget exceeded
		"AADSTS90033": true, // a directory service is down
	}
	resourceCodes = map[string]bool{
		"AADSTS50001":   true,
		"AADSTS500011":  true,
		"AADSTS70011":   true,
		"AADSTS1002012": true,
	}
	// federationCodes: no federated credential matches the assertion at all,
	// its issuer, its audience, its subject.
	federationCodes = map[string]bool{
		"AADSTS70021":  true,
		"AADSTS700211": true,
		"AADSTS700212": true,
		"AADSTS700213": true,
	}
)

var errUnreadable = errors.New("MSAL cannot use the answer")

// statusError is an answer of Entra other than 200.
type statusError int

func (s statusError) Error() string { return "HTTP status " + strconv.Itoa(int(s)) }

// exchangeError turns an error of MSAL into the package's own. MSAL's error
// holds the whole request and answer, assertion and token included, so it goes
// no further than here once the assertion was sent.
func exchangeError(err error, sent bool, now time.Time) *workload.TokenError {
	var call msal.CallErr
	var network *url.Error
	switch {
	case errors.As(err, &call) && call.Resp != nil:
		return answerError(call.Resp, now)
	case errors.Is(err, errForeignEndpoint):
		e := refused("the authority's token endpoint is at another host: mend AZURE_AUTHORITY_HOST or --authority-host")
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
		e.Err = err
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
	switch {
	case transientCodes[said.code], said.name == "temporarily_unavailable":
		return workload.Unavailable
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout,
		status < 400, status >= 500:
		return workload.Unavailable
	case resourceCodes[said.code], said.name == "invalid_resource", said.name == "invalid_scope":
		return workload.InvalidResource
	}
	return workload.Refused
}

// forCaller returns e as it holds for the caller: that no federated credential
// matches is transient while the workload is so young that the credential may
// have been made with it.
func forCaller(e *workload.TokenError, w workload.Workload, now time.Time) *workload.TokenError {
	if age := now.Sub(w.ChangedAt); !federationCodes[e.Code] || age >= federationDelay || age < -maxSkew {
		return e
	}
	held := *e
	held.Kind = workload.Unavailable
	return &held
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
	e := entraError{name: b.Error, description: oneLine(b.Description)}
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

// oneLine returns the part of a description that helps its reader.
func oneLine(s string) string {
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
		d = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
