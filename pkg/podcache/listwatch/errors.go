package listwatch

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Errors takes the errors of lists and watches, which are retried.
type Errors struct {
	log         *slog.Logger
	unreachable func()
	lines       *rate.Limiter
}

// NewErrors returns an Errors that logs one error in ten seconds, and calls
// unreachable for each that says that the API server cannot be reached.
func NewErrors(log *slog.Logger, unreachable func()) *Errors {
	return &Errors{log: log, unreachable: unreachable, lines: rate.NewLimiter(rate.Every(10*time.Second), 5)}
}

// Of returns a function that takes errors about what is watched.
func (e *Errors) Of(what string) func(context.Context, error) {
	return func(ctx context.Context, err error) { e.Take(ctx, what, err) }
}

// Take logs an error about what is watched, unless it is part of normal life:
// the watch's end, or a version that is too old.
func (e *Errors) Take(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	if unreachable(err) {
		e.unreachable()
	}
	expired := apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
	if expired || !e.lines.Allow() {
		return
	}
	e.log.Warn("watching the API failed, trying again", "watched", what, "err", err)
}

// unreachable reports whether an error is not an API server's own: nobody
// answered, and the next try is a pause away. A refusal may be the answer to a
// question that an older server does not know, and another follows at once.
func unreachable(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status)
}
