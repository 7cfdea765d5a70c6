package kubeapi

import (
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes/scheme"
)

const maxEvent = 64 << 10

// event takes a posted event of either API group, as JSON or protobuf, and
// logs what it says.
func (s *Server) event(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil {
		s.fail(w, r, apierrors.NewBadRequest(err.Error()))
		return
	}
	posted, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		s.fail(w, r, apierrors.NewBadRequest(err.Error()))
		return
	}
	said, ok := said(posted)
	if !ok {
		s.fail(w, r, apierrors.NewBadRequest("the body is no event"))
		return
	}
	s.note(r, Entry{Status: http.StatusCreated, Event: &said})
	writeJSON(w, http.StatusCreated, posted)
}

func said(posted any) (Event, bool) {
	switch e := posted.(type) {
	case *corev1.Event:
		return about(e.InvolvedObject, e.Type, e.Reason, e.Message), true
	case *eventsv1.Event:
		return about(e.Regarding, e.Type, e.Reason, e.Note), true
	}
	return Event{}, false
}

func about(o corev1.ObjectReference, kind, reason, note string) Event {
	return Event{
		Namespace: o.Namespace, Kind: o.Kind, Name: o.Name, UID: string(o.UID),
		Type: kind, Reason: reason, Note: note,
	}
}
