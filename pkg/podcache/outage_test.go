package podcache

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// client-go slows errors down by a clock that all tests share: one that has
// seen the real time would make those in a bubble wait for years.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// While the API cannot be had it is asked for pods alone, and often enough
// that what changed meanwhile is known soon after it is back.
func TestAPIThatIsDownForMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, config.Default(), newTestPod("shop", "cart", "u1", "cart", labeled), newTestAccount("shop", "cart", "sa1")).start(t)
		var pods, accounts atomic.Int32
		c.api.setFail(func(resource string) error {
			if resource == "pods" {
				pods.Add(1)
			} else {
				accounts.Add(1)
			}
			return apierrors.NewUnauthorized("down")
		})
		c.api.cut()
		time.Sleep(3 * time.Minute)
		if n := pods.Load(); n < 28 || n > 62 {
			t.Errorf("pods were asked for %d times in 3 minutes", n)
		}
		// Once or twice before it is known that pods cannot be had.
		if n := accounts.Load(); n > 2 {
			t.Errorf("the service account was asked for %d times in 3 minutes", n)
		}
		if c.verdict("u1") != workload.Steer || c.workload("u1").ServiceAccountUID != "sa1" {
			t.Error("what was known is forgotten")
		}
		c.api.put(newTestPod("shop", "late", "u2", "cart", labeled), newTestAccount("shop", "cart", "sa1", workload.ClientIDAnnotation, "changed"))
		c.api.setFail(nil)
		back := time.Now()
		eventually(t, "the changes", func() bool {
			return c.verdict("u2") == workload.Steer && c.workload("u2").ClientID == "changed"
		})
		if took := time.Since(back); took > 7*time.Second {
			t.Errorf("what changed is known %s after the API is back", took)
		}
	})
}

// An account's watch that was kept back by the gate was in an outage too,
// though it did not fail.
func TestWatchesKeptBackByTheGateComeBackOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, config.Default())
		calls := 0
		watchAccount := c.spread(&account{synced: true}, func(context.Context, metav1.ListOptions) (watch.Interface, error) {
			calls++
			return watch.NewFake(), nil
		})
		c.gate.Answered(errors.New("down"))
		go func() { _, _ = watchAccount(t.Context(), metav1.ListOptions{}) }()
		synctest.Wait()
		if c.fake.HasWaiters() {
			t.Error("the time began while the gate was shut")
		}
		c.gate.Answered(nil)
		synctest.Wait()
		if !c.fake.HasWaiters() || calls != 0 {
			t.Error("the watch was asked for at once")
		}
		c.fake.Step(spreadTime)
		synctest.Wait()
		if calls != 1 {
			t.Errorf("the watch was asked for %d times", calls)
		}
	})
}
