// Package tokenproxy stands in for the proxy of AKS identity bindings, which
// AKS runs behind the name of the cluster's API server. It takes what
// azidentity sends and nothing else, as TLS server name, host, path, fields and
// the assertion's audience go, and has an Entra stand-in decide who may be
// whom. Whether the service account may use the identity by RBAC it does not
// ask: only AKS knows how.
package tokenproxy
