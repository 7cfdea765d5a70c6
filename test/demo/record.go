package main

import (
	"bytes"
	"encoding/json"
)

// auditLine is what the demo reads of a line in the agent's log.
type auditLine struct {
	Event          string `json:"event"`
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"service_account"`
	Pod            string `json:"pod"`
	Endpoint       string `json:"endpoint"`
	Status         int    `json:"status"`
	ClientID       string `json:"client_id"`
}

// The events of the agent's audit log.
const (
	eventRequest = "imds_request" // the broker answered on the token path
	eventIssued  = "token_issued" // a workload got a token for the first time
)

// auditLines returns the audit lines in the agent's log. Lines that are not
// JSON (a panic, the Go runtime) are not among them.
func auditLines(log []byte) []auditLine {
	var found []auditLine
	for line := range bytes.Lines(log) {
		var a auditLine
		if json.Unmarshal(line, &a) == nil && a.Event != "" {
			found = append(found, a)
		}
	}
	return found
}
