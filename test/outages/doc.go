// Package outages tests what Entra's bad days, and the networks between, do to
// applications: the real token engine and the real broker on loopback, in
// front of the Entra stand-in, which fails on demand. It prints the table of
// faults. It attests nothing and has no kernel in it: a connection's listener
// says whose it is.
package outages
