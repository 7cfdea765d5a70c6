// Package aadsts is the table of Entra's error codes: how long a refusal lasts,
// what it says something about, what it means for a workload, and the command
// that fixes it. pkg/tokens asks it about every refusal; the metrics, the table
// in docs/diagnosis.md and the Entra stand-in are made or checked from it. It
// makes no requests and runs nothing.
package aadsts
