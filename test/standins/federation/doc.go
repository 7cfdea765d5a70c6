// Package federation says which identities the stand-ins know: tenants,
// managed identities with their federated credentials, the resources that
// tokens can be had for, the node's own identity, and who may do what in
// which vault. The stand-ins for Entra, IMDS and Key Vault ask it at each
// request; it is read from a YAML file that may change under it. It verifies
// no token.
package federation
