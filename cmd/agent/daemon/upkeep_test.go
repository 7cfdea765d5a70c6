package daemon

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func TestAccountsAreForgottenOnceAndWithoutFlapping(t *testing.T) {
	web := types.NamespacedName{Namespace: "shop", Name: "web"}
	job := types.NamespacedName{Namespace: "shop", Name: "job"}
	type seen = map[types.NamespacedName]string
	known, now := make(accounts), time.Now()
	for _, step := range []struct {
		name  string
		after time.Duration
		inUse seen
		want  []string
	}{
		{"two in use", 0, seen{web: "w1", job: "j1"}, nil},
		{"one restarts", time.Second, seen{web: "w1"}, nil},
		{"and is back", 30 * time.Second, seen{web: "w1", job: "j1"}, nil},
		{"not listed for a moment", time.Second, seen{web: "", job: "j1"}, nil},
		{"listed again", time.Minute, seen{web: "w1", job: "j1"}, nil},
		{"created again", time.Second, seen{web: "w2", job: "j1"}, []string{"w1"}},
		{"no pod left", time.Second, seen{web: "w2"}, nil},
		{"none for long", accountGrace, seen{web: "w2"}, []string{"j1"}},
		{"still none", accountGrace, seen{web: "w2"}, nil},
		{"deleted", time.Second, seen{web: ""}, nil},
		{"deleted for long", accountGrace, seen{web: ""}, []string{"w2"}},
	} {
		now = now.Add(step.after)
		if diff := cmp.Diff(step.want, known.see(step.inUse, now)); diff != "" {
			t.Errorf("%s: forgotten (-want +got):\n%s", step.name, diff)
		}
	}
	if len(known) != 0 {
		t.Errorf("%v is remembered for nothing", known)
	}
}
