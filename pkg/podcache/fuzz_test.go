package podcache

import (
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidestep-agent/sidestep/pkg/config"
)

func FuzzImport(f *testing.F) {
	whole, err := json.Marshal(state{Pods: []savedPod{savePod(fullRecord())}, Accounts: []savedAccount{saveAccount(fullAccount())}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, exported []byte) {
		c, err := New(Options{
			Config: config.Default(), Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Import(exported, taken); err != nil {
			if _, stale := c.Stale(); stale || len(c.Pods()) > 0 || c.isReady() {
				t.Errorf("%v, and still something was taken", err)
			}
			return
		}
		if !c.isReady() {
			t.Error("taken, and not ready")
		}
	})
}
