// Package threads holds the sources to two rules that no compiler knows. What
// changes the calling thread alone (unshare, setns, prctl ...) is used only where
// the goroutine is locked to its thread: else the next line may run on another.
// And no socket that another process or goroutine has open too is made into a
// net.Listener or an os.File in the ways that make it blocking for a moment: an
// accept that enters then never returns.
package threads
