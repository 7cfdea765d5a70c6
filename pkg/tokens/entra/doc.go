// Package entra exchanges a service account token for an access token at
// Microsoft Entra, or at the proxy of an AKS identity binding: the authority,
// its discovery document, the transport and what a failure says. The engine
// above decides when something is sent; nothing of an assertion or a token is
// in this package's errors.
package entra
