// Command vaultclient is an ordinary program of the Azure SDK: it gets a token
// as a managed identity and uses a key vault's secret with it, as the tutorial
// of workload identity does. Nothing in it knows of the agent under test, and
// it refuses to run where the SDK would get its token from anywhere but IMDS.
// It prints one line of JSON with what came back.
//
// It is a module of its own, so that the SDK is no dependency of the agent.
// It sends to 169.254.169.254 by nature: run it only where that address is a
// stand-in's.
package main
