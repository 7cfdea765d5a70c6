package podcache

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// fullRecord has a value in every field that a pod which runs may have.
func fullRecord() *record {
	return &record{changed: created.Add(time.Minute), pod: pod{
		name: types.NamespacedName{Namespace: "shop", Name: "cart"}, objectUID: "object", cgroupUID: "cgroup",
		mirror: true, serviceAccount: "cart", labels: map[string]string{workload.UseLabel: "true"},
		hostNetwork: true, ports: []uint16{8080}, containers: []string{"app"},
		containerIDs: map[string]string{"id": "app"}, skipped: []string{"proxy"},
		clientIDs: clientIDs{"web": "client"}, tenantID: "tenant", authorityHost: "https://login.example/",
		projected: &workload.ProjectedToken{Volume: "v", Path: "token"},
		binding: &workload.IdentityBinding{
			TokenProxy: "https://proxy", SNIName: "sni", CAData: "ca", CAFile: "/ca/ca.crt",
			CA: &workload.VolumeFile{Plugin: "kubernetes.io~configmap", Volume: "ca", Path: "ca.crt"},
		},
		expiration: "3600", created: created,
	}}
}

func fullAccount() *account {
	return &account{
		name: types.NamespacedName{Namespace: "shop", Name: "cart"}, lastLabel: labelPresent, changed: now,
		object: &serviceAccount{
			uid: "sa1", labeled: true, clientID: "client", tenantID: "tenant", expiration: "3600",
			identities: `[{"clientId":"c2"}]`, created: created,
		},
	}
}

// emptyFields returns the names of the fields that have their zero value.
func emptyFields(of reflect.Value, but ...string) (names []string) {
	allowed := map[string]bool{}
	for _, name := range but {
		allowed[name] = true
	}
	for i := range of.NumField() {
		if name := of.Type().Field(i).Name; of.Field(i).IsZero() && !allowed[name] {
			names = append(names, name)
		}
	}
	return names
}

// Whatever the cache keeps is in what it saves: a field that is added must be
// set above, and is missing after the round trip until it is saved.
func TestStateHasAllThatIsKept(t *testing.T) {
	r, a := fullRecord(), fullAccount()
	for what, empty := range map[string][]string{
		"pod":              emptyFields(reflect.ValueOf(r.pod), "finished"),
		"record":           emptyFields(reflect.ValueOf(*r)),
		"service account":  emptyFields(reflect.ValueOf(*a.object)),
		"identity binding": emptyFields(reflect.ValueOf(*r.binding)),
		"account":          emptyFields(reflect.ValueOf(*a), "users", "stop", "synced", "identities", "deleted"),
	} {
		if empty != nil {
			t.Errorf("%s: this test sets no %v", what, empty)
		}
	}
	text := encode(t, state{Pods: []savedPod{savePod(r)}, Accounts: []savedAccount{saveAccount(a)}})
	var got state
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if back := got.Pods[0].record(); !reflect.DeepEqual(back, r) {
		t.Errorf("pod\n%+v became\n%+v", r, back)
	}
	if back := got.Accounts[0].serviceAccount(); !reflect.DeepEqual(back, a.object) {
		t.Errorf("service account\n%+v became\n%+v", a.object, back)
	}
	if s := got.Accounts[0]; s.LastLabel != a.lastLabel || !s.Changed.Equal(a.changed) {
		t.Errorf("account became %+v", s)
	}
}

// A pod that the API server describes as before has not changed, whether its
// lists are empty or not there.
func TestStateKeepsPodsEqual(t *testing.T) {
	bare := newTestPod("shop", "bare", "u1", "")
	empty := newTestPod("shop", "empty", "u2", "", withLabels())
	empty.Status.ContainerStatuses = nil
	for _, o := range []*record{{pod: newPod(bare)}, {pod: newPod(empty)}} {
		var saved savedPod
		if err := json.Unmarshal(encode(t, savePod(o)), &saved); err != nil {
			t.Fatal(err)
		}
		if back := saved.record(); !reflect.DeepEqual(back, o) {
			t.Errorf("\n%+v became\n%+v", o, back)
		}
	}
}

// Another version of the agent must read this, or know that it cannot.
func TestStateFormat(t *testing.T) {
	got := encode(t, state{
		Pods: []savedPod{savePod(fullRecord())}, Accounts: []savedAccount{saveAccount(fullAccount())},
		IdentityExceptions: map[string]map[string]podLabels{"shop": {"exempt": {"app": "legacy"}}},
	})
	golden := filepath.Join("testdata", fmt.Sprintf("state-%d.golden", StateFormat))
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("the form has changed: raise StateFormat, then run with -update\nwant %s\ngot  %s", want, got)
	}
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return text
}
