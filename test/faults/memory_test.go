package faults

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/test/lab"
	"github.com/sidestep-agent/sidestep/test/scene"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
)

// crowd is as many pods as the kubelet runs on a node, at most, where it is
// asked to run many; each with a service account of its own.
const crowd = 250

// The lab has no memory controller: the agent gets a limit by its flag, as the
// DaemonSet tells it of its pod's, and nothing but its own collector keeps it.
// It gets an eighth, so that it has less than it would take.
func TestMemoryLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("250 pods take a while to make")
	}
	limit := memoryLimit(t)
	var all []*scene.Workload
	r := open(t, fmt.Sprintf("memory short: a limit of %d MiB, 250 pods ask", limit>>20/8),
		fmt.Sprintf("each has its own token; far below the manifest's %d MiB", limit>>20), func(o *scene.Options) {
			o.Flags = append(o.Flags, "--memory-limit", strconv.FormatInt(limit/8, 10))
			o.LogLevel = "warn"
			all = addCrowd(o)
		})
	for range 3 {
		var group errgroup.Group
		group.SetLimit(16)
		for i, w := range all {
			group.Go(func() error { return r.asksForItsOwn(w, clientOf(i)) })
		}
		check(t, group.Wait())
	}
	most, own, inMaps := r.memory("VmHWM:"), r.memory("RssAnon:"), r.mapped()
	r.see("%d × its own token; at most %d MiB resident (%d MiB of it its own, no file's), and maps of %d MiB",
		3*crowd, most>>20, own>>20, inMaps>>20)
	if most+inMaps >= limit/2 {
		t.Errorf("the agent had %d bytes and maps of %d: half of the limit is %d", most, inMaps, limit/2)
	}
}

// memoryLimit returns the DaemonSet's, in bytes.
func memoryLimit(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("../../manifests/base/daemonset.yaml")
	check(t, err)
	var d appsv1.DaemonSet
	check(t, yaml.Unmarshal(text, &d))
	return d.Spec.Template.Spec.Containers[0].Resources.Limits.Memory().Value()
}

func clientOf(i int) string { return fmt.Sprintf("33333333-0000-4000-8000-%012d", i) }

// addCrowd adds that many steered pods to the scene.
func addCrowd(o *scene.Options) (all []*scene.Workload) {
	for i := range crowd {
		w := workload(fmt.Sprintf("crowd-%d", i), clientOf(i))
		w.Labels = map[string]string{scene.UseLabel: "true"}
		all = append(all, w)
		o.Federation.Identities = append(o.Federation.Identities, federation.Identity{
			Name: w.Name, TenantID: tenant, ClientID: clientOf(i),
			PrincipalID:          fmt.Sprintf("44444444-0000-4000-8000-%012d", i),
			ResourceID:           "/subscriptions/s/" + w.Name,
			FederatedCredentials: []federation.Credential{{Subject: "system:serviceaccount:shop:" + w.Name}},
		})
	}
	o.Workloads = append(o.Workloads, all...)
	return all
}

func (r *rig) asksForItsOwn(w *scene.Workload, client string) error {
	got, err := lab.Run[asking, answers](r.t.Context(), w.Pod, "ask", asking{Patience: patience})
	if err == nil && !got.only(client) {
		err = fmt.Errorf("%s got %v, want its own token", w, got)
	}
	return err
}

// memory returns what the kernel says of the agent's, in bytes (proc(5)).
func (r *rig) memory(what string) int64 {
	r.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Agent.PID()))
	check(r.t, err)
	return field(r.t, string(text), what) << 10
}

// mapped returns what the agent's maps take, in bytes.
func (r *rig) mapped() (sum int64) {
	r.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fdinfo/", r.Agent.PID())
	all, err := os.ReadDir(dir)
	check(r.t, err)
	seen := map[int64]bool{}
	for _, fd := range all {
		text, err := os.ReadFile(dir + fd.Name())
		if err != nil || !strings.Contains(string(text), "map_id:") {
			continue // closed meanwhile, or no map
		}
		if id := field(r.t, string(text), "map_id:"); !seen[id] {
			seen[id] = true
			sum += field(r.t, string(text), "memlock:")
		}
	}
	return sum
}

// field returns the number after a name.
func field(t *testing.T, text, name string) int64 {
	t.Helper()
	_, after, _ := strings.Cut(text, name)
	words := strings.Fields(after)
	if len(words) == 0 {
		t.Fatalf("no %s in:\n%s", name, text)
	}
	n, err := strconv.ParseInt(words[0], 10, 64)
	check(t, err)
	return n
}
