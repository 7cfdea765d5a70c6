// Package figures has what the host of a flood tells about itself.
package figures

// Figures are what a flood is judged by.
type Figures struct {
	Connections    int // that the broker counts
	Goroutines     int
	Lines          int // in the log
	Asked          int // requests that reached the node's IMDS
	AskedPerSecond int // at most
	Panics         int
	Scraping       int // connections to the metrics' port that are open
	Gathered       int // how often the metrics were
	// AcceptedAtOnce is how many connections the pod's own listener has accepted
	// beyond the pace at which a pod's may come, at most.
	AcceptedAtOnce int
}
