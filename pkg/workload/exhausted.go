package workload

import (
	"errors"
	"syscall"
)

// Exhausted reports whether an error says only that this process or its node
// has run out of descriptors or memory. It says nothing of what was looked for,
// and passes.
func Exhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
