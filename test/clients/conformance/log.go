package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/sidestep-agent/sidestep/test/scene"
)

// auditLine is what the suite reads of the broker's log.
type auditLine struct {
	Event    string `json:"event"`
	Pod      string `json:"pod"`
	Endpoint string `json:"endpoint"`
	Status   int    `json:"status"`
	ClientID string `json:"client_id"`
	MS       int64  `json:"duration_ms"` // how long the broker took
}

// requestsOf returns the requests of the pod that the broker has logged.
func requestsOf(a *scene.Agent, pod string) []auditLine {
	var found []auditLine
	for line := range bytes.Lines(a.Log.Whole()) {
		var l auditLine
		if json.Unmarshal(line, &l) == nil && l.Event == "imds_request" && l.Pod == pod {
			found = append(found, l)
		}
	}
	return found
}

// settled returns the pod's requests after the first known ones. The broker
// logs a request after its answer, so that the last line may come a moment
// later than the client ends; nothing more is expected once all of the answers
// that the client must have had are there and a moment has passed.
func settled(ctx context.Context, a *scene.Agent, pod string, known, tokens int) []auditLine {
	const aMoment, patience = 20 * time.Millisecond, 2 * time.Second
	deadline := time.Now().Add(patience)
	for last := -1; ; {
		lines := requestsOf(a, pod)[known:]
		if len(lines) == last && granted(lines) >= tokens || time.Now().After(deadline) || ctx.Err() != nil {
			return lines
		}
		last = len(lines)
		time.Sleep(aMoment)
	}
}

// granted returns how many of the requests were answered with a token.
func granted(lines []auditLine) int {
	return len(slices.DeleteFunc(slices.Clone(lines), func(l auditLine) bool {
		return l.Endpoint != "token" || l.Status != http.StatusOK
	}))
}
