// Package attest turns an accepted connection into the workload that made it.
// The broker has it prove the caller once per connection, and asks again what
// is known of that caller for each request, and before an answer with a token
// goes out. Its proof is the kernel's record of the connection and the
// cgroup named there; it never looks at a source address to tell who is
// calling, and where it cannot tell it refuses.
package attest
