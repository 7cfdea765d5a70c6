// Package assertion gets the service account token of a pod, which the engine
// sends to Entra as the proof of who asks: from the volume that the kubelet
// projects into the pod, or from the API server. It checks each before it
// leaves the node, keeps none, and writes none to a log or an error.
package assertion
