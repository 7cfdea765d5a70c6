// Package vault stands in for one Azure Key Vault's secrets: challenge, access
// policy, versions, soft delete. It verifies each token by the keys that the
// Entra stand-in publishes, with its issuer, audience and lifetime, and lets
// an object id do only what the federation file allows. Tests, the demo and
// the node rig serve it over TLS; it keeps secrets in memory and knows neither
// keys nor certificates.
package vault
