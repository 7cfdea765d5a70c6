package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	eventsv1 "k8s.io/client-go/tools/events"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// events tells people through the cluster what they should fix.
type events struct {
	broadcaster eventsv1.EventBroadcaster
	recorder    eventsv1.EventRecorder
	node        *corev1.ObjectReference
	budget      *rate.Limiter // of events on pods
	leftOut     prometheus.Counter
}

// Events on pods: so many at once, one for each pod of a full node, and so many
// in each second after that. The requests for them are the API client's, which
// has others to make. What is over it is in the log, and in the pod's answer.
const (
	eventBurst = 250
	eventRate  = 1
)

func newEvents(client kubernetes.Interface, node string, r prometheus.Registerer) *events {
	broadcaster := eventsv1.NewBroadcaster(&eventsv1.EventSinkImpl{Interface: client.EventsV1()})
	return &events{
		broadcaster: broadcaster,
		recorder:    broadcaster.NewRecorder(scheme.Scheme, "sidestep-agent"),
		// The kubelet's own events name nodes by the name in place of the UID.
		node:   &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node, UID: types.UID(node)},
		budget: rate.NewLimiter(eventRate, eventBurst),
		leftOut: promauto.With(r).NewCounter(prometheus.CounterOpts{
			Name: "sidestep_events_left_out_total",
			Help: "Events on pods that were not sent, because there were too many.",
		}),
	}
}

// mayTell reports whether the budget of events on pods has room, and counts what
// is left out.
func (e *events) mayTell() bool {
	if e.budget.Allow() {
		return true
	}
	e.leftOut.Inc()
	return false
}

// Run sends events until ctx ends.
func (e *events) Run(ctx context.Context) error {
	if err := e.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return err
	}
	<-ctx.Done()
	e.broadcaster.Shutdown()
	return nil
}

// podReference returns what events on a pod refer to.
func podReference(namespace, name, uid string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: namespace, Name: name, UID: types.UID(uid)}
}

// guardReduced reports that the node is guarded less than was asked for.
func (e *events) guardReduced(guard string, reason error) {
	e.recorder.Eventf(e.node, nil, corev1.EventTypeWarning, "GuardReduced", "Start",
		"The active guard is %s: %v", guard, reason)
}

// packetsNotGuarded reports on a pod that only its sockets are guarded.
func (e *events) packetsNotGuarded(p workload.Pod, reason error) {
	if !e.mayTell() {
		return
	}
	pod := podReference(p.Namespace, p.Name, p.UID)
	e.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "PacketsNotGuarded", "Guard", "%s",
		cut("Only the pod's sockets are guarded: "+reason.Error(), maxNote))
}

// podsExposed reports that pods are not served with node delivery, and why.
func (e *events) podsExposed(why string) {
	e.recorder.Eventf(e.node, nil, corev1.EventTypeWarning, "PodsExposed", "Serve", "%s", why)
}

// lineMissing reports that the full guard has no second line.
func (e *events) lineMissing(reason error) {
	e.recorder.Eventf(e.node, nil, corev1.EventTypeWarning, "SecondLineMissing", "Guard",
		"The guard has no second line where the node routes: %v", reason)
}

// configurationRefused reports a bad new configuration; the old one stays.
func (e *events) configurationRefused(err error) {
	e.recorder.Eventf(e.node, nil, corev1.EventTypeWarning, "ConfigurationRefused", reloadOf(err),
		"The agent's configuration was not applied, the last good one stays: %v", err)
}

// reloadOf returns an action of its own for each mistake. client-go makes
// events of one reason and action a series, six minutes long, and sends the
// first one's note alone: a second mistake would go by the first one's name.
func reloadOf(err error) string {
	sum := sha256.Sum256([]byte(err.Error()))
	return fmt.Sprintf("Reload-%x", sum[:4])
}

// maxNote is how long an event's note may be, in bytes.
// https://pkg.go.dev/k8s.io/api/events/v1#Event
const maxNote = 1024

// tokenRefused reports on the pod why it got no token, and what fixes that.
func (e *events) tokenRefused(w workload.Workload, failed *workload.TokenError) {
	if !e.mayTell() {
		return
	}
	pod := podReference(w.Namespace, w.PodName, w.PodUID)
	// Events of the same action and reason are counted in one: the code keeps
	// those apart that are fixed in different ways.
	action := cmp.Or(failed.Code, "IssueToken")
	if failed.RetriedUntil.IsZero() {
		e.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "TokenRefused", action, "%s", note(failed))
	} else {
		e.recorder.Eventf(pod, nil, corev1.EventTypeWarning, "TokenNotAcceptedYet", action, "%s", note(failed))
	}
}

// note returns what an event says of the failure. A command is never cut: half
// of one may do something else.
func note(failed *workload.TokenError) string {
	says := failed.Description
	if failed.Meaning != "" {
		says = failed.Code + ": " + failed.Meaning
	}
	lead := ". Fix: "
	if !failed.RetriedUntil.IsZero() {
		says += ". Not accepted yet, retried until " + failed.RetriedUntil.UTC().Format(time.RFC3339)
		lead = "; if it stays: "
	}
	fix := ""
	if failed.Fix != "" {
		fix = lead + failed.Fix
	}
	if len(says)+len(fix) > maxNote {
		fix = ". What fixes it is in the agent's log, and in the answer to the application."
	}
	return cut(says, maxNote-len(fix)) + fix
}

// cut returns so much of a text, in bytes, as there is room for.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}
