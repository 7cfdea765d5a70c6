package listwatch

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestGate(t *testing.T) {
	g := NewGate()
	down := errors.New("down")
	for _, step := range []struct {
		name   string
		answer error
	}{
		{"stays open", nil}, {"shuts", down}, {"stays shut", down}, {"opens", nil},
	} {
		g.Answered(step.answer)
		ctx, cancel := context.WithCancel(t.Context())
		if step.answer != nil {
			cancel() // it would wait for ever
		}
		if waited, err := g.Pass(ctx); waited != (step.answer != nil) || (err == nil) == waited {
			t.Errorf("%s: pass = %t, %v", step.name, waited, err)
		}
		cancel()
	}
}

func TestGateLetsAllPassWhoWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		g.Answered(errors.New("down"))
		passed := make(chan error, 2)
		for range cap(passed) {
			go func() {
				_, err := g.Pass(t.Context())
				passed <- err
			}()
		}
		synctest.Wait()
		if len(passed) != 0 {
			t.Fatal("it is not shut")
		}
		g.Answered(nil)
		for range cap(passed) {
			if err := <-passed; err != nil {
				t.Error(err)
			}
		}
	})
}
