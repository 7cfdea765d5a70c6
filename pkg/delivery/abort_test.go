package delivery

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// diag is a kernel that lists sockets of some cgroups, all to the metadata
// service and the wire server, and destroys those that it is asked to.
type diag struct {
	cgroups   []uint64
	err       error
	destroyed []uint64
}

func (d *diag) destroy(_ *namespace, closed func(uint64) closedTo) (n int, err error) {
	for _, id := range d.cgroups {
		if closed(id) != 0 {
			d.destroyed = append(d.destroyed, id)
			n++
		}
	}
	return n, d.err
}

// newAborting returns a Reconciler, and the kernel with the sockets that it may
// destroy.
func newAborting(t *testing.T, n *node, cgroups ...uint64) (*Reconciler, *diag) {
	t.Helper()
	d := &diag{cgroups: cgroups}
	r := newReconciler(t, newKernel(), n, func(o *Options) { o.NodeOnly = true })
	r.aborter.destroy = d.destroy
	r.enforced.Store(true)
	return r, d
}

// at has the work done that is due by then, and returns whose sockets were
// destroyed by it.
func (d *diag) at(t *testing.T, r *Reconciler, when time.Time) []uint64 {
	t.Helper()
	d.destroyed = nil
	if _, err := r.aborter.work(when); err != nil {
		t.Fatal(err)
	}
	slices.Sort(d.destroyed)
	return d.destroyed
}

func TestSocketsOfPodsThatAreClosedOffAreDestroyed(t *testing.T) {
	n := &node{}
	n.run(1, workload.Pod{UID: "changes", Decision: pass})
	n.run(2, workload.Pod{UID: "passes", Decision: pass})
	n.run(3, workload.Pod{UID: "denied", Decision: deny})
	n.run(4, workload.Pod{UID: "deleted", Decision: pass})
	r, d := newAborting(t, n, 1, 2, 3, 4, 5)
	r.reconcile(true)
	now := time.Now()
	want := func(what string, when time.Time, ids ...uint64) {
		t.Helper()
		if diff := cmp.Diff(ids, d.at(t, r, when)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	want("at the start", now, 3)
	r.reconcile(true)
	want("nothing changed", now.Add(time.Hour))
	n.pods[0].Decision = steer
	n.pods = n.pods[:3]
	r.reconcile(false)
	now = time.Now()
	want("closed off", now, 1, 4)
	want("and once more", now.Add(lookTwice), 1, 4)
	want("and that is all", now.Add(time.Hour))
	n.pods[0].Decision = deny
	r.reconcile(false)
	want("from one to the other", now.Add(time.Hour))
	n.pods[0].Decision = workload.Decision{Verdict: workload.Deny, DenyWireServer: true}
	r.reconcile(false)
	want("the wire server, too", now.Add(time.Hour), 1)
}

func TestNothingIsDestroyedInAuditMode(t *testing.T) {
	n := &node{}
	n.run(1, workload.Pod{UID: "steered", Decision: steer})
	r, d := newAborting(t, n, 1)
	r.enforced.Store(false)
	r.reconcile(true)
	if got := d.at(t, r, time.Now()); got != nil {
		t.Errorf("destroyed in audit mode: %v", got)
	}
	r.SetEnforced(true)
	r.reconcile(true)
	if got := d.at(t, r, time.Now()); len(got) != 1 {
		t.Errorf("destroyed with the end of audit: %v", got)
	}
}

func TestContainersThatPassKeepTheirSockets(t *testing.T) {
	n := &node{}
	n.run(1, workload.Pod{UID: "mixed", Decision: steer, Containers: map[string]workload.Decision{"app": steer, "skipped": pass}})
	n.cgroups[0].Containers = []workload.ContainerCgroup{{ContainerID: "app", CgroupID: 11}, {ContainerID: "skipped", CgroupID: 12}}
	r, d := newAborting(t, n, 1, 11, 12)
	r.reconcile(true)
	if diff := cmp.Diff([]uint64{1, 11}, d.at(t, r, time.Now())); diff != "" {
		t.Errorf("destroyed (-want +got):\n%s", diff)
	}
}

// A container that has ended may have left its connections to another one.
func TestSocketsOfEndedContainersAreDestroyed(t *testing.T) {
	n := &node{}
	n.run(1, workload.Pod{UID: "restarts", Decision: pass})
	n.cgroups[0].Containers = []workload.ContainerCgroup{{ContainerID: "first", CgroupID: 11}}
	r, d := newAborting(t, n, 1, 11, 12)
	r.reconcile(true)
	n.cgroups[0].Containers = []workload.ContainerCgroup{{ContainerID: "second", CgroupID: 12}}
	r.reconcile(true)
	r.reconcile(true)
	n.pods[0].Decision = deny
	r.reconcile(true)
	if diff := cmp.Diff([]uint64{1, 11, 12}, d.at(t, r, time.Now())); diff != "" {
		t.Errorf("destroyed (-want +got):\n%s", diff)
	}
}

func TestFailedLookAtSocketsIsRepeated(t *testing.T) {
	n := &node{}
	n.run(1, workload.Pod{UID: "denied", Decision: deny})
	r, d := newAborting(t, n, 1)
	d.err = unix.EMFILE
	r.reconcile(true)
	now := time.Now()
	d.at(t, r, now)
	d.err = nil
	if got := d.at(t, r, now.Add(checkInterval)); len(got) != 1 {
		t.Errorf("not tried again: %v", got)
	}
}

// One line in the log, and no further try.
func TestKernelThatDestroysNothing(t *testing.T) {
	n, log := &node{}, new(bytes.Buffer)
	n.run(1, workload.Pod{UID: "denied", Decision: deny})
	r, d := newAborting(t, n, 1)
	r.aborter.Log = slog.New(slog.NewTextHandler(log, nil))
	d.err = errNoDestroy
	r.reconcile(true)
	r.aborter.run(t.Context()) // returns
	if said := strings.Count(log.String(), "\n"); said != 1 || !strings.Contains(log.String(), "CONFIG_INET_DIAG_DESTROY") {
		t.Errorf("said: %s", log)
	}
}

func TestWhereSocketsLead(t *testing.T) {
	for name, tc := range map[string]struct {
		family  byte
		address []byte
		port    uint16
		want    closedTo
	}{
		"metadata":                {unix.AF_INET, []byte{169, 254, 169, 254}, 80, closedToIMDS},
		"metadata, another port":  {unix.AF_INET, []byte{169, 254, 169, 254}, 81, closedToIMDS},
		"IPv4-mapped":             {unix.AF_INET6, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 169, 254, 169, 254}, 80, closedToIMDS},
		"wire server":             {unix.AF_INET, []byte{168, 63, 129, 16}, 32526, closedToWireServer},
		"wire server's DNS":       {unix.AF_INET, []byte{168, 63, 129, 16}, 53, 0},
		"a listener of the agent": {unix.AF_INET, []byte{127, 0, 0, 1}, 28000, 0},
		"the bytes in IPv6":       {unix.AF_INET6, []byte{169, 254, 169, 254}, 80, 0},
	} {
		t.Run(name, func(t *testing.T) {
			leads, id, ok := parseSocket(socketMessage(tc.family, tc.address, tc.port, 4711))
			if leads != tc.want || id != 4711 || !ok {
				t.Errorf("leads to %d, want %d; cgroup %d, %t", leads, tc.want, id, ok)
			}
		})
	}
}

// socketMessage is an answer of sock_diag.
func socketMessage(family byte, address []byte, port uint16, cgroupID uint64) []byte {
	data := make([]byte, diagMessageSize)
	data[0] = family
	binary.BigEndian.PutUint16(data[diagIDInMessage+diagPortInID:], port)
	copy(data[diagIDInMessage+diagAddressInID:], address)
	e := netlink.NewAttributeEncoder()
	e.Uint64(diagCgroupID, cgroupID)
	attributes, err := e.Encode()
	if err != nil {
		panic(err)
	}
	return append(data, attributes...)
}

// FuzzSocketMessage: whatever an answer is, it is read without a panic, and only
// whole ones count.
func FuzzSocketMessage(f *testing.F) {
	f.Add(socketMessage(unix.AF_INET, []byte{169, 254, 169, 254}, 80, 1))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if leads, _, ok := parseSocket(data); ok && len(data) < diagMessageSize || !ok && leads != 0 {
			t.Errorf("a message of %d bytes leads to %d, %t", len(data), leads, ok)
		}
	})
}
