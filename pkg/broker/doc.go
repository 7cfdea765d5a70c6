// Package broker answers steered pods in the words of the Azure instance
// metadata service (IMDS): tokens of the caller's own workload, relayed
// instance metadata, and a refusal for everything else. Delivery hands it
// every connection it accepts, cmd/agent/daemon builds and runs it. It never decides
// who a caller is (an Attester does), never asks Entra (Tokens does), and
// never passes a request for an identity on to the node's own IMDS, except
// for pods whose verdict is to be left alone.
//
// A connection is served in one of two ways. A request for a cached token that
// is known by sight, byte for byte (recognize), is answered where it was read
// (serveFast); everything else is net/http's. The first way gives no answer but
// a token, and none that the second would not give.
package broker
