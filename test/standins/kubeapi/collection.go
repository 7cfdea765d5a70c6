package kubeapi

import (
	"encoding/json"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// selector says which objects a list or watch is about.
type selector struct {
	kind      kind
	namespace string // empty: all
	fields    fields.Selector
}

// has reports whether o is selected; nil is not.
func (s selector) has(o object) bool {
	if o == nil || (s.namespace != "" && o.GetNamespace() != s.namespace) {
		return false
	}
	set := fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
	if pod, ok := o.(*corev1.Pod); ok {
		set["spec.nodeName"] = pod.Spec.NodeName
	}
	return s.fields.Matches(set)
}

// collection serves list and watch of what has one value of the field needed.
func (s *Server) collection(w http.ResponseWriter, r *http.Request, k kind, namespace, needed string) {
	query := r.URL.Query()
	parsed, err := fields.ParseSelector(query.Get("fieldSelector"))
	if err != nil {
		s.fail(w, r, apierrors.NewBadRequest(err.Error()))
		return
	}
	if value, exact := parsed.RequiresExactMatch(needed); !exact || value == "" {
		s.forbid(w, r, string(k), "the list needs the field selector "+needed+": nothing wider is allowed")
		return
	}
	match := selector{kind: k, namespace: namespace, fields: parsed}
	if watching, _ := strconv.ParseBool(query.Get("watch")); watching {
		s.watch(w, r, match)
		return
	}
	found, version := s.store.list(match)
	s.send(w, r, http.StatusOK, listOf(k, found, version))
}

// listOf returns a list in the order of namespaces and names.
func listOf(k kind, found []object, version uint64) any {
	sort.Slice(found, func(i, j int) bool {
		a, b := found[i], found[j]
		return a.GetNamespace()+"/"+a.GetName() < b.GetNamespace()+"/"+b.GetName()
	})
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatUint(version, 10)}
	if k == serviceAccounts {
		list := corev1.ServiceAccountList{TypeMeta: metav1.TypeMeta{Kind: "ServiceAccountList", APIVersion: "v1"}, ListMeta: meta}
		for _, o := range found {
			list.Items = append(list.Items, *o.(*corev1.ServiceAccount))
		}
		return list
	}
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, ListMeta: meta}
	for _, o := range found {
		list.Items = append(list.Items, *o.(*corev1.Pod))
	}
	return list
}

// event is one line of a watch.
type event struct {
	Type   watch.EventType `json:"type"`
	Object any             `json:"object"`
}

// watch streams changes until the client goes or the time it asked for is
// over. With sendInitialEvents it begins with the present state, ended by a
// bookmark (KEP-3157).
func (s *Server) watch(w http.ResponseWriter, r *http.Request, match selector) {
	query := r.URL.Query()
	initial, _ := strconv.ParseBool(query.Get("sendInitialEvents"))
	if initial && query.Get("resourceVersionMatch") != string(metav1.ResourceVersionMatchNotOlderThan) {
		s.fail(w, r, apierrors.NewBadRequest("sendInitialEvents needs resourceVersionMatch=NotOlderThan"))
		return
	}
	var version uint64
	if text := query.Get("resourceVersion"); text != "" {
		var err error
		if version, err = strconv.ParseUint(text, 10, 64); err != nil {
			s.fail(w, r, apierrors.NewBadRequest("resourceVersion: "+err.Error()))
			return
		}
	}
	s.note(r, Entry{Watch: true, Status: http.StatusOK})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	stream := &stream{encoder: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}
	// No version, or 0, also begins with the present state, but unmarked.
	if initial || version == 0 {
		version = stream.state(s.store, match, initial)
	}
	stream.follow(r, s, match, version)
}

// stream is the body of a watch. After the first error it sends no more.
type stream struct {
	encoder *json.Encoder
	flush   func() error
	err     error
}

func (s *stream) send(kind watch.EventType, o any) {
	if s.err == nil {
		s.err = s.encoder.Encode(event{kind, o})
	}
	if s.err == nil {
		s.err = s.flush()
	}
}

// state sends the present state and returns its version.
func (s *stream) state(from *store, match selector, mark bool) uint64 {
	found, version := from.list(match)
	for _, o := range found {
		s.send(watch.Added, o)
	}
	if mark {
		s.send(watch.Bookmark, bookmark(match.kind, version))
	}
	return version
}

func bookmark(k kind, version uint64) any {
	meta := metav1.ObjectMeta{
		ResourceVersion: strconv.FormatUint(version, 10),
		Annotations:     map[string]string{metav1.InitialEventsAnnotationKey: "true"},
	}
	if k == serviceAccounts {
		return corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{Kind: "ServiceAccount", APIVersion: "v1"}, ObjectMeta: meta}
	}
	return corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: meta}
}

// follow sends what happens after version.
func (s *stream) follow(r *http.Request, from *Server, match selector, version uint64) {
	var end <-chan time.Time
	if seconds, err := strconv.Atoi(strings.TrimSpace(r.URL.Query().Get("timeoutSeconds"))); err == nil && seconds > 0 {
		timer := time.NewTimer(time.Duration(seconds) * time.Second)
		defer timer.Stop()
		end = timer.C
	}
	// The header must reach a client for whom nothing happens.
	s.err = s.flush()
	for s.err == nil {
		changes, more := from.store.since(version)
		for _, c := range changes {
			version = c.version
			if c.kind == match.kind {
				from.wait(r, c.at)
				s.sendChange(c, match)
			}
		}
		select {
		case <-more:
		case <-end:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// sendChange tells of a change as one who sees only what match selects: an
// object that begins or ceases to match is added or deleted for him.
func (s *stream) sendChange(c change, match selector) {
	before, after := match.has(c.old), match.has(c.new)
	switch {
	case before && after:
		s.send(watch.Modified, c.new)
	case after:
		s.send(watch.Added, c.new)
	case before && c.new == nil:
		s.send(watch.Deleted, c.old)
	case before:
		last := c.old.DeepCopyObject().(object)
		last.SetResourceVersion(c.new.GetResourceVersion())
		s.send(watch.Deleted, last)
	}
}
