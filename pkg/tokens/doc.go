// Package tokens turns a workload into its own Entra access token: it picks
// the identity, gets the pod's service account token (the assertion), has
// Entra exchange it, keeps the result for as long as it is good and replaces it
// ahead of its end. The broker calls it for each token request; it holds those
// that fail for a reason that passes by itself. It never proves who is calling,
// never speaks IMDS, and never writes an assertion or a token to disk, to a
// log, to an error or to a metric.
package tokens
