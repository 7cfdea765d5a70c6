package kubeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/sidestep-agent/sidestep/test/standins/journal"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

const node = "node-1"

type rig struct {
	*httptest.Server
	api *Server
	log bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	signing, err := jwks.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Server: httptest.NewUnstartedServer(nil)}
	r.api, err = New(Options{Issuer: "https://" + r.Listener.Addr().String(), Key: signing, Token: "agent", Log: &r.log})
	if err != nil {
		t.Fatal(err)
	}
	r.Config.Handler = r.api
	r.StartTLS()
	t.Cleanup(r.Close)
	return r
}

func (r *rig) client(t *testing.T, token string) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(&rest.Config{Host: r.URL, BearerToken: token,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pod(name, onNode, label string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name, Labels: map[string]string{"v": label}},
		Spec:       corev1.PodSpec{NodeName: onNode, ServiceAccountName: "app"},
	}
}

// seen is one thing that an informer passed to its handler.
type seen struct{ What, Name, Label string }

// inform starts a pod informer of the node; its handler's calls come out of
// the channel.
func inform(t *testing.T, c kubernetes.Interface) <-chan seen {
	t.Helper()
	factory := informers.NewSharedInformerFactoryWithOptions(c, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "spec.nodeName=" + node }))
	events := make(chan seen, 16)
	tell := func(what string, o any) {
		p := o.(*corev1.Pod)
		events <- seen{what, p.Name, p.Labels["v"]}
	}
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { tell("add", o) },
		UpdateFunc: func(_, o any) { tell("update", o) },
		DeleteFunc: func(o any) { tell("delete", o) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	for _, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			t.Fatal("the informer did not sync")
		}
	}
	return events
}

func TestInformerSeesItsNodesPods(t *testing.T) {
	r := newRig(t)
	r.api.PutPod(pod("first", node, "1"))
	r.api.PutPod(pod("elsewhere", "node-2", "1"))
	events := inform(t, r.client(t, "agent"))
	steps := []struct {
		name string
		do   func()
		want seen
	}{
		{"there before", func() {}, seen{"add", "first", "1"}},
		{"created", func() { r.api.PutPod(pod("second", node, "1")) }, seen{"add", "second", "1"}},
		{"changed", func() { r.api.PutPod(pod("first", node, "2")) }, seen{"update", "first", "2"}},
		{"not ours", func() { r.api.PutPod(pod("elsewhere", "node-2", "2")); r.api.PutPod(pod("third", "", "1")) }, seen{}},
		{"scheduled here", func() { r.api.PutPod(pod("third", node, "2")) }, seen{"add", "third", "2"}},
		{"deleted", func() { r.api.DeletePod("team-a", "first") }, seen{"delete", "first", "2"}},
	}
	for _, s := range steps {
		s.do()
		if s.want == (seen{}) {
			continue
		}
		if got := <-events; got != s.want {
			t.Fatalf("%s: got %v, want %v", s.name, got, s.want)
		}
	}
	r.CloseClientConnections()
	r.api.PutPod(pod("fourth", node, "1"))
	if got, want := <-events, (seen{"add", "fourth", "1"}); got != want {
		t.Errorf("after the connection broke: got %v, want %v", got, want)
	}
}

func TestListThenWatchMissesNothing(t *testing.T) {
	r := newRig(t)
	c := r.client(t, "agent").CoreV1().ServiceAccounts("team-a")
	account := func(clientID string) *corev1.ServiceAccount {
		return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "app",
			Annotations: map[string]string{"azure.workload.identity/client-id": clientID}}}
	}
	r.api.PutServiceAccount(account("one"))
	options := metav1.ListOptions{FieldSelector: "metadata.name=app"}
	list, err := c.List(t.Context(), options)
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d items, error %v", len(list.Items), err)
	}
	r.api.PutServiceAccount(account("two"))
	r.api.DeleteServiceAccount("team-a", "app")
	options.ResourceVersion = list.ResourceVersion
	w, err := c.Watch(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var got []string
	for range 2 {
		e := <-w.ResultChan()
		got = append(got, string(e.Type)+" "+e.Object.(*corev1.ServiceAccount).Annotations["azure.workload.identity/client-id"])
	}
	if diff := cmp.Diff([]string{"MODIFIED two", "DELETED two"}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	agent, stranger := r.client(t, "agent").CoreV1(), r.client(t, "other").CoreV1()
	list := func(selector string) metav1.ListOptions { return metav1.ListOptions{FieldSelector: selector} }
	tests := []struct {
		name string
		do   func() error
		is   func(error) bool
	}{
		{"another token", func() error { _, err := stranger.Pods("").List(t.Context(), list("spec.nodeName=n")); return err }, apierrors.IsUnauthorized},
		{"all pods", func() error { _, err := agent.Pods("").List(t.Context(), list("")); return err }, apierrors.IsForbidden},
		{"all pods but one node's", func() error { _, err := agent.Pods("").List(t.Context(), list("spec.nodeName!=n")); return err }, apierrors.IsForbidden},
		{"pods of no node", func() error { _, err := agent.Pods("").List(t.Context(), list("spec.nodeName=")); return err }, apierrors.IsForbidden},
		{"watch of all pods", func() error { _, err := agent.Pods("").Watch(t.Context(), list("")); return err }, apierrors.IsForbidden},
		{"all service accounts", func() error {
			_, err := agent.ServiceAccounts("").List(t.Context(), list("metadata.name=a"))
			return err
		}, apierrors.IsNotFound},
		{"a namespace's service accounts", func() error { _, err := agent.ServiceAccounts("a").List(t.Context(), list("")); return err }, apierrors.IsForbidden},
		{"secrets", func() error { _, err := agent.Secrets("a").List(t.Context(), list("")); return err }, apierrors.IsNotFound},
	}
	for _, tt := range tests {
		if err := tt.do(); !tt.is(err) {
			t.Errorf("%s: error %v", tt.name, err)
		}
	}
}

func TestEventsAreLogged(t *testing.T) {
	r := newRig(t)
	client := r.client(t, "agent")
	regarding := corev1.ObjectReference{Kind: "Pod", Namespace: "team-a", Name: "first", UID: "u"}
	_, err := client.CoreV1().Events("team-a").Create(t.Context(), &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "e"}, InvolvedObject: regarding,
		Type: "Warning", Reason: "Core", Message: "note",
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.EventsV1().Events("team-a").Create(t.Context(), &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "f"}, Regarding: regarding,
		Type: "Normal", Reason: "New", Note: "note",
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	entries, err := journal.Read[Entry](&r.log)
	if err != nil {
		t.Fatal(err)
	}
	var got []Event
	for _, e := range entries {
		got = append(got, *e.Event)
	}
	want := []Event{
		{Namespace: "team-a", Kind: "Pod", Name: "first", UID: "u", Type: "Warning", Reason: "Core", Note: "note"},
		{Namespace: "team-a", Kind: "Pod", Name: "first", UID: "u", Type: "Normal", Reason: "New", Note: "note"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestServiceAccountToken(t *testing.T) {
	r := newRig(t)
	r.api.PutPod(pod("first", node, "1"))
	token, err := r.api.SignServiceAccountToken("team-a", "app", "sa-uid", "first", "pod-uid", "api://AzureADTokenExchange", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := jwks.NewRemote(r.Client()).Verify(t.Context(), jwks.ConfigurationOf(r.URL), token)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(payload, &got); err != nil {
		t.Fatal(err)
	}
	if exp, iat := got["exp"].(float64), got["iat"].(float64); exp-iat != 3600 {
		t.Errorf("lifetime %v s, want 3600", exp-iat)
	}
	for _, claim := range []string{"exp", "iat", "nbf", "jti"} {
		delete(got, claim)
	}
	want := map[string]any{
		"iss": r.URL, "sub": "system:serviceaccount:team-a:app", "aud": []any{"api://AzureADTokenExchange"},
		"kubernetes.io": map[string]any{
			"namespace": "team-a", "node": map[string]any{"name": node},
			"pod":            map[string]any{"name": "first", "uid": "pod-uid"},
			"serviceaccount": map[string]any{"name": "app", "uid": "sa-uid"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}
