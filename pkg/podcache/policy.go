package podcache

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// policy is the part of a configuration that decides about pods.
type policy struct {
	allHeld        bool     // nothing else counts
	scope          []string // namespaces; empty: all
	exceptions     []exception
	either         bool // the label counts on the service account too
	unlabeled      workload.Decision
	denyWireServer bool
}

// exception is one entry of the configuration's exceptions, ready to match.
type exception struct {
	namespaces []string // empty: all
	selector   labels.Selector
}

// labelState is what is known of the selecting label of a service account.
type labelState uint8

const (
	labelUnknown labelState = iota // the service account was never seen
	labelAbsent
	labelPresent
)

// newPolicy fails only for a configuration that config.Parse would refuse.
func newPolicy(c *config.AgentConfiguration) (*policy, error) {
	p := &policy{
		allHeld:        c.AllHeld,
		scope:          c.Scope.Namespaces,
		either:         c.Select == config.SelectEither,
		denyWireServer: c.WireServer == config.WireServerDeny,
	}
	for i, e := range c.Exceptions {
		selector, err := metav1.LabelSelectorAsSelector(&e.PodSelector)
		if err != nil {
			return nil, fmt.Errorf("exceptions[%d].podSelector: %w", i, err)
		}
		p.exceptions = append(p.exceptions, exception{e.Namespaces, selector})
	}
	reason := workload.ReasonUnlabeled + ": " + string(c.Unlabeled)
	switch c.Unlabeled {
	case config.UnlabeledPass:
		p.unlabeled = workload.Decision{Verdict: workload.Pass, Reason: reason}
	case config.UnlabeledMetadataOnly:
		p.unlabeled = workload.Decision{Verdict: workload.Steer, Access: workload.MetadataOnly, Reason: reason}
	case config.UnlabeledDeny:
		p.unlabeled = workload.Decision{Verdict: workload.Deny, Reason: reason}
	default:
		return nil, fmt.Errorf("unlabeled: %q is not a value", c.Unlabeled)
	}
	return p, nil
}

// decide returns the decision for a pod, and those of its containers where
// they differ.
func (p *policy) decide(pod *pod, account labelState, exempt *identityExceptions) (workload.Decision, map[string]workload.Decision) {
	d := p.decidePod(pod, account, exempt)
	if d.Access != workload.Identity || !anySkipped(pod) {
		return d, nil
	}
	skipped, notKnown := p.unlabeled, workload.Decision{Verdict: workload.Unknown}
	skipped.Reason = "skip-containers, " + skipped.Reason
	notKnown.Reason = workload.ReasonContainerUnknown
	skipped.DenyWireServer, notKnown.DenyWireServer = d.DenyWireServer, d.DenyWireServer
	containers := make(map[string]workload.Decision, len(pod.containerIDs))
	for id, name := range pod.containerIDs {
		containers[id] = d
		if slices.Contains(pod.skipped, name) {
			containers[id] = skipped
		}
	}
	return notKnown, containers
}

// decidePod applies the rules in their order: exceptions, scope, label.
func (p *policy) decidePod(pod *pod, account labelState, exempt *identityExceptions) workload.Decision {
	if p.allHeld {
		return workload.Decision{Verdict: workload.Unknown, Reason: "no valid configuration"}
	}
	if reason, ok := p.leftAlone(pod, exempt); ok {
		return workload.Decision{Verdict: workload.Pass, Reason: reason}
	}
	d := p.decideByLabel(pod, account)
	if exempt.isAwaited() {
		d = workload.Decision{Verdict: workload.Unknown, Reason: identityExceptionKind.Kind + " objects not seen"}
	}
	d.DenyWireServer = p.denyWireServer
	return d
}

// leftAlone reports whether no other rule counts for a pod, and why.
func (p *policy) leftAlone(pod *pod, exempt *identityExceptions) (reason string, ok bool) {
	for i, e := range p.exceptions {
		if e.matches(pod) {
			return fmt.Sprintf("exception %d", i+1), true
		}
	}
	if name := exempt.exempting(pod); name != "" {
		return fmt.Sprintf("%s %s/%s", identityExceptionKind.Kind, pod.name.Namespace, name), true
	}
	if len(p.scope) > 0 && !slices.Contains(p.scope, pod.name.Namespace) {
		return "outside scope.namespaces", true
	}
	return "", false
}

func (p *policy) decideByLabel(pod *pod, account labelState) workload.Decision {
	steer := workload.Decision{Verdict: workload.Steer, Access: workload.Identity}
	if pod.labels[workload.UseLabel] == "true" {
		steer.Reason = "label"
		return steer
	}
	if !p.either || account == labelAbsent {
		return p.unlabeled
	}
	if account == labelUnknown {
		// Its label may be the one that selects the pod.
		return workload.Decision{Verdict: workload.Unknown, Reason: "service account not seen"}
	}
	steer.Reason = workload.ReasonAccountLabel
	return steer
}

func (e exception) matches(pod *pod) bool {
	if len(e.namespaces) > 0 && !slices.Contains(e.namespaces, pod.name.Namespace) {
		return false
	}
	return e.selector.Matches(labels.Set(pod.labels))
}

// anySkipped reports whether skip-containers names a container that the pod
// has. One that is added later is in the spec before it starts.
func anySkipped(pod *pod) bool {
	return slices.ContainsFunc(pod.containers, func(name string) bool {
		return slices.Contains(pod.skipped, name)
	})
}
