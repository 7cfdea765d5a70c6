package faults

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
)

// A node that is drained, with pods that need a token for their last words.
func TestAskedToStopWhileSteeredPodsRun(t *testing.T) {
	const serves = 5 * time.Second
	r := open(t, "SIGTERM without a successor, steered pods run", "served for --drain-timeout (here 5 s), then refused",
		func(o *scene.Options) { o.Flags = []string{"--drain-timeout", serves.String()} })
	since := time.Now()
	check(t, r.Agent.Signal(syscall.SIGTERM))
	r.logged("serving on while steered pods run")
	r.want(r.steered, ownToken)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check(t, r.Agent.WaitEnd(ctx))
	if took := time.Since(since); took < serves {
		t.Errorf("the agent ended after %v, with a steered pod there", took)
	}
	r.want(r.steered, refused)
	r.want(r.passing, nodeToken)
	r.see("its own token after SIGTERM; refused once the agent has ended")
}

// helm uninstall deletes the service account while its pods still run.
func TestServiceAccountDeleted(t *testing.T) {
	r := open(t, "service account deleted while its pod runs", "the token in the cache is served until the pod ends")
	r.want(r.steered, ownToken)
	r.DeleteAccount(r.steered)
	r.logged("a service account was deleted while pods use it")
	r.want(r.steered, ownToken)
	r.see("its own token")
}

// The API server has not reported a pod that runs: the watch may be silent.
func TestAPodThatIsNotExplained(t *testing.T) {
	r := open(t, "a pod runs that the API server has not reported", "pods are listed again, a problem in status and a metric")
	stranger, err := r.Node.StartPod(lab.PodOptions{})
	check(t, err)
	r.strangers = append(r.strangers, stranger)
	r.problem("a pod with UID " + stranger.UID + " runs here")
	r.logged("listing pods again")
	if got := r.metrics("sidestep_pods_unexplained")[""]; got != 1 {
		t.Errorf("sidestep_pods_unexplained is %v", got)
	}
	r.want(r.steered, ownToken)
	check(t, stranger.Stop())
	r.sound()
	r.see("named with its UID; sound again once it has ended")
}
