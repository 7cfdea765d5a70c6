// Package entra stands in for Microsoft Entra ID: discovery, signing keys and
// the token endpoint with client credentials proven by a federated assertion.
// It verifies each assertion by its issuer's published keys, matches it with
// the federated credentials of a federation file, and signs what it issues.
// Tests, the demo and the node rig serve it over TLS; it issues no token by
// client secret, certificate or user.
package entra
