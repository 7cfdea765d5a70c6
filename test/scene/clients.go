package scene

import (
	"context"
	"os"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/load"
)

// asking is the order for a process of clients.
type asking struct {
	Until string
	Load  load.Options
}

const askTask = "load"

func init() { lab.Register(askTask, ask) }

// Ask has clients in the pod ask for tokens, as a process of its container,
// until each has made its requests or the file named until is there, and
// returns the results. An empty until names none.
func (w *Workload) Ask(ctx context.Context, until string, o load.Options) (load.Tally, error) {
	return lab.Run[asking, load.Tally](ctx, w.Pod, askTask, asking{until, o})
}

// ask runs in the pod.
func ask(a asking) (load.Tally, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if a.Until != "" {
		go func() {
			for _, err := os.Stat(a.Until); err != nil; _, err = os.Stat(a.Until) {
				time.Sleep(10 * time.Millisecond)
			}
			cancel()
		}()
	}
	return load.Run(ctx, a.Load, nil), nil
}
