// Package jwks signs tokens and verifies them by the key set that their
// issuer publishes (OpenID Connect Discovery 1.0). The stand-ins use it for
// service account tokens and for access tokens. It checks signatures alone:
// who may use a token, and when, is for its caller.
package jwks
