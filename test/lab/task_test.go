package lab

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() { Register("stay", stay) }

// stay returns on how many threads the task was, beside goroutines that want
// one too.
func stay(looks int) (int, error) {
	for range 4 * runtime.GOMAXPROCS(0) {
		go func() {
			for {
				time.Sleep(time.Microsecond)
			}
		}()
	}
	threads := map[int]bool{}
	for range looks {
		threads[unix.Gettid()] = true
		time.Sleep(10 * time.Microsecond)
	}
	return len(threads), nil
}

// What a task does to its thread holds until it ends, since it stays on it.
func TestTaskStaysOnItsThread(t *testing.T) {
	threads, err := Run[int, int](t.Context(), newPodInLab(t), "stay", 1000)
	if err != nil || threads != 1 {
		t.Errorf("the task was on %d threads: %v", threads, err)
	}
}
