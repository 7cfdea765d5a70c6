package tokens

import (
	"fmt"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func unavailable(format string, args ...any) *workload.TokenError {
	return tokenError(workload.Unavailable, format, args...)
}

func notFound(format string, args ...any) *workload.TokenError {
	return tokenError(workload.IdentityNotFound, format, args...)
}

func refused(format string, args ...any) *workload.TokenError {
	return tokenError(workload.Refused, format, args...)
}

func tokenError(kind workload.TokenErrorKind, format string, args ...any) *workload.TokenError {
	return &workload.TokenError{Kind: kind, Description: fmt.Sprintf(format, args...)}
}
