package aadsts

import (
	"strings"
	"unicode"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// Facts are what is known of a refused exchange. They come from people's
// objects and from callers, so none goes into a command unquoted.
type Facts struct {
	Issuer     string // of the assertion, as are the next two
	Subject    string
	Audience   string
	Namespace  string
	Account    string // the service account's name
	ClientID   string
	ResourceID string // ARM id of the client's identity; empty: not known
	Tenant     string
	Resource   string
}

// scopeSuffix ends scopes, which are not resources.
const scopeSuffix = "/.default"

func (f Facts) asksForScope() bool { return strings.HasSuffix(f.Resource, scopeSuffix) }

// Explain returns a copy of the error that also says what its code means for
// the workload, and which command fixes the cause. It returns the error itself
// if the code has no row, and nil for nil.
func Explain(e *workload.TokenError, f Facts) *workload.TokenError {
	if e == nil {
		return nil
	}
	row, ok := Lookup(e.Code)
	if !ok {
		return e
	}
	f = f.printable()
	explained := *e
	if row.meaning != nil {
		explained.Meaning = row.meaning(f)
	}
	if row.fix != nil {
		explained.Fix = row.fix(f)
	}
	return &explained
}

// printable returns the facts without characters that could change what a
// terminal shows of a command.
func (f Facts) printable() Facts {
	for _, s := range []*string{
		&f.Issuer, &f.Subject, &f.Audience, &f.Namespace, &f.Account,
		&f.ClientID, &f.ResourceID, &f.Tenant, &f.Resource,
	} {
		*s = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return '?'
			}
			return r
		}, strings.ToValidUTF8(*s, "?"))
	}
	return f
}
