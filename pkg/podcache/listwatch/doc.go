// Package listwatch keeps a store up to date with a kind of Kubernetes object,
// for package podcache. It asks an API server that fails for as little as it
// can: what waits behind a Gate is asked for only while another watch is
// answered. It knows no kind of object and keeps none.
package listwatch
