// Package attest turns an accepted connection into the workload that made it.
// The broker asks it once per connection, and again before an answer with a
// token goes out. Its proof is the kernel's record of the connection and the
// cgroup named there; it never looks at a source address to tell who is
// calling, and where it cannot tell it refuses.
package attest
