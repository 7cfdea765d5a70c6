// Package surface compares what the broker answers with what IMDS does, request
// by request.
package surface
