// Package imdspath decides what a request to the instance metadata service asks
// for, by its path and query alone: which endpoint, whether the node's own IMDS
// may be asked, and in which spelling. It is pure. The broker calls it for each
// request; no path that any server could read as one below /metadata/identity
// is ever relayed (CVE-2022-23551).
package imdspath
