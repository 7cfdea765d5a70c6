package podcache

import (
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

func TestUnansweredAfterPatience(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	c := newCluster(t, config.Default())
	c.api.setFail(func(string) error { <-release; return syscall.ETIMEDOUT })
	go func() { _ = c.Run(t.Context()) }()
	eventually(t, "the timer", c.fake.HasWaiters)
	c.fake.Step(patience - 1)
	select {
	case <-c.Unanswered():
		t.Fatal("given up too early")
	default:
	}
	c.fake.Step(1)
	c.awaitUnanswered(t)
}

// An API server that refuses has answered: the next question may be one that
// it understands.
func TestRefusalsAreAnswers(t *testing.T) {
	c := newCluster(t, config.Default())
	c.api.setFail(func(resource string) error { return apierrors.NewForbidden(corev1.Resource(resource), "", nil) })
	go func() { _ = c.Run(t.Context()) }()
	eventually(t, "a refusal", func() bool { return c.logs.count("trying again") > 0 })
	select {
	case <-c.Unanswered():
		t.Error("given up at a refusal")
	default:
	}
	c.fake.Step(patience)
	c.awaitUnanswered(t)
}
