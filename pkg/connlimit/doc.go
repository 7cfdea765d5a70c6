// Package connlimit bounds how many connections a server keeps open, for each
// of their owners and over all. Where a bound is reached it closes what costs
// its client least, an idle connection, of the owner who has the most. The
// broker counts pods' connections with it, metricsserver those to the metrics.
// It knows nothing of what is sent on a connection.
package connlimit
