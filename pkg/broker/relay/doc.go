// Package relay asks the node's own instance metadata service for what pods
// want to know of it. Equal requests share one answer, pods take turns, and the
// service is asked less often than the VM's limit allows. The broker calls it,
// with requests that it has written itself. It never asks for an identity, and
// it takes the VM's user data out of every document unless a request asks to leave it in.
package relay
