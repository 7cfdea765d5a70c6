package podcache

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func container(name string, env ...corev1.EnvVar) corev1.Container {
	return corev1.Container{Name: name, Env: env}
}

// A container's own AZURE_CLIENT_ID is its default identity, and never another
// container's; what cannot be determined is named.
func TestClientIDIsTheCallersOwn(t *testing.T) {
	set := func(value string) corev1.EnvVar { return corev1.EnvVar{Name: clientIDVariable, Value: value} }
	variable := func(name, value string) corev1.EnvVar { return corev1.EnvVar{Name: name, Value: value} }
	fromMap := corev1.EnvVar{Name: clientIDVariable, ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{}}}
	doubling := []corev1.EnvVar{variable("V", "12345678")}
	for range 30 {
		doubling = append(doubling, variable("V", "$(V)$(V)"))
	}
	doubling = append(doubling, set("$(V)"))
	from := corev1.EnvVar{Name: clientIDVariable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}}
	for name, tt := range map[string]struct {
		containers []corev1.Container
		caller     string
		want       string
		unclear    string
	}{
		"none sets it":                   {[]corev1.Container{container("a"), container("b")}, "", "", ""},
		"all agree":                      {[]corev1.Container{container("a", set("1")), container("b", set("1"))}, "", "1", ""},
		"all agree, a new one asks":      {[]corev1.Container{container("a", set("1")), container("b", set("1"))}, "new", "1", ""},
		"one sets it":                    {[]corev1.Container{container("a", set("1")), container("b")}, "", "", notKnown},
		"one sets it, a new one asks":    {[]corev1.Container{container("a", set("1")), container("b")}, "new", "", notKnown},
		"one sets it and asks":           {[]corev1.Container{container("a", set("1")), container("b")}, "a", "1", ""},
		"none sets it, a new one asks":   {[]corev1.Container{container("a"), container("b")}, "new", "", ""},
		"two differ":                     {[]corev1.Container{container("a", set("1")), container("b", set("2"))}, "", "", notKnown},
		"two differ, a new one asks":     {[]corev1.Container{container("a", set("1")), container("b", set("2"))}, "new", "", notKnown},
		"two differ, the first asks":     {[]corev1.Container{container("a", set("1")), container("b", set("2"))}, "a", "1", ""},
		"two differ, the second asks":    {[]corev1.Container{container("a", set("1")), container("b", set("2"))}, "b", "2", ""},
		"another has it":                 {[]corev1.Container{container("a", set("1")), container("b")}, "b", "", ""},
		"from a secret":                  {[]corev1.Container{container("a", from)}, "", "", "the container a takes AZURE_CLIENT_ID from a secret"},
		"from a secret, it asks":         {[]corev1.Container{container("a", from), container("b", set("2"))}, "a", "", "the container a takes AZURE_CLIENT_ID"},
		"from a secret, another asks":    {[]corev1.Container{container("a", from), container("b", set("2"))}, "b", "2", ""},
		"from a secret, unknown":         {[]corev1.Container{container("a", set("1")), container("b", from)}, "", "", notKnown},
		"from a ConfigMap":               {[]corev1.Container{container("a", fromMap)}, "a", "", "the container a takes AZURE_CLIENT_ID"},
		"empty":                          {[]corev1.Container{container("a", set(""))}, "a", "", ""},
		"twice: empty at last":           {[]corev1.Container{container("a", set("1"), set(""))}, "a", "", ""},
		"twice: from a secret at first":  {[]corev1.Container{container("a", from, set("1"))}, "a", "1", ""},
		"twice: from a secret at last":   {[]corev1.Container{container("a", set("1"), from)}, "a", "", "the container a takes AZURE_CLIENT_ID"},
		"of another variable":            {[]corev1.Container{container("a", variable("ID", "1"), variable("ID", "2"), set("$(ID)"))}, "a", "2", ""},
		"of one that comes later":        {[]corev1.Container{container("a", set("$(ID)"), variable("ID", "1"))}, "a", "", "another variable"},
		"of one that nobody sets":        {[]corev1.Container{container("a", set("$(ID)"))}, "", "", "another variable"},
		"of another container's":         {[]corev1.Container{container("a", set("$(ID)")), container("b", variable("ID", "1"))}, "a", "", "another variable"},
		"of itself, from a secret":       {[]corev1.Container{container("a", from, set("$(AZURE_CLIENT_ID)"))}, "a", "", "another variable"},
		"of variables that double":       {[]corev1.Container{container("a", doubling...)}, "a", "", "another variable"},
		"twice: the last one counts":     {[]corev1.Container{container("a", set("1"), set("2"))}, "", "2", ""},
		"with a carriage return and all": {[]corev1.Container{container("a", set("\ufeff 1\r\n"))}, "", "1", ""},
	} {
		w := cacheOf(tt.containers...).lookup(t, tt.caller)
		if w.ClientID != tt.want || (w.ClientIDUnclear == "") != (tt.unclear == "") || !strings.Contains(w.ClientIDUnclear, tt.unclear) {
			t.Errorf("%s: %q, unclear %q; want %q, %q", name, w.ClientID, w.ClientIDUnclear, tt.want, tt.unclear)
		}
		if tt.unclear == notKnown && w.ContainerUnknown != (tt.caller == "new") || tt.unclear != notKnown && w.ContainerUnknown {
			t.Errorf("%s: container unknown: %t", name, w.ContainerUnknown)
		}
	}
}

// notKnown is in the reason of who is not known although that matters.
const notKnown = "it is not known which of them asks"

// cacheOf returns a cache with the one pod "pod" of these containers, each known by
// the id "id-" and its name.
func cacheOf(containers ...corev1.Container) *Cache {
	o := &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
	for _, c := range containers {
		o.Status.ContainerStatuses = append(o.Status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, ContainerID: "containerd://id-" + c.Name})
	}
	return cacheOfPod(o, &account{object: &serviceAccount{}})
}

func cacheOfPod(o *corev1.Pod, a *account) *Cache {
	w, callers := newWorkloads(&record{pod: newPod(o)}, a)
	return &Cache{entries: map[string]*entry{"pod": {workload: w, callers: callers}}}
}

// lookup returns the workload of a container by its name; "": of a task in the
// pod's own cgroup, "new": of a container that no status names yet.
func (c *Cache) lookup(t *testing.T, container string) workload.Workload {
	t.Helper()
	ref := workload.CgroupRef{PodUID: "pod"}
	if container != "" {
		ref.ContainerID = "id-" + container
	}
	w, _, ok := c.Lookup(ref)
	if !ok {
		t.Error("the pod is not known")
	}
	return w
}

// The service account's client id is all containers', whichever asks.
func TestAnnotatedClientIDIsForAllCallers(t *testing.T) {
	o := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
		container("a", corev1.EnvVar{Name: clientIDVariable, Value: "1"}), container("b"),
	}}}
	o.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", ContainerID: "containerd://id-a"}}
	c := cacheOfPod(o, &account{object: &serviceAccount{clientID: "annotated"}})
	for _, caller := range []string{"a", "b", "new", ""} {
		if w := c.lookup(t, caller); w.ClientID != "annotated" || w.ClientIDUnclear != "" || w.ContainerUnknown {
			t.Errorf("%q: %+v", caller, w)
		}
	}
}

// Containers of every kind count, and each is known by its status.
func TestContainersOfEveryKindHaveTheirOwnIdentity(t *testing.T) {
	set := func(name string) corev1.Container {
		return container(name, corev1.EnvVar{Name: clientIDVariable, Value: "of-" + name})
	}
	o := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{set("a")}, InitContainers: []corev1.Container{set("i")},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon(set("e"))}},
	}}
	status := func(name string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: name, ContainerID: "containerd://id-" + name}}
	}
	a := &account{object: &serviceAccount{}}
	if w := cacheOfPod(o, a).lookup(t, "e"); w.ClientID != "" || !w.ContainerUnknown {
		t.Errorf("before its status: %+v", w)
	}
	o.Status.ContainerStatuses, o.Status.InitContainerStatuses, o.Status.EphemeralContainerStatuses = status("a"), status("i"), status("e")
	for _, caller := range []string{"a", "i", "e"} {
		if w := cacheOfPod(o, a).lookup(t, caller); w.ClientID != "of-"+caller || w.ContainerUnknown {
			t.Errorf("%s: %+v", caller, w)
		}
	}
}

// `az … --output tsv` ends lines with a carriage return on Windows, and files of
// PowerShell begin with a byte order mark.
func TestAnnotationsAreTrimmed(t *testing.T) {
	o := &corev1.ServiceAccount{}
	o.Annotations = map[string]string{
		workload.ClientIDAnnotation: "\ufeffclient\r", workload.TenantIDAnnotation: "\u00a0tenant\u200b\r\n", expirationAnnotation: "3600\r",
		workload.IdentitiesAnnotation: "\ufeff" + `[{"clientId":"one\r","id":" /subscriptions/s","principalId":"p "}]`,
	}
	got := newServiceAccount(o)
	if got.clientID != "client" || got.tenantID != "tenant" || got.expiration != "3600" {
		t.Errorf("%+v", got)
	}
	ids, err := parseIdentities(got.identities)
	if want := (workload.MappedIdentity{ClientID: "one", ResourceID: "/subscriptions/s", PrincipalID: "p"}); err != nil || ids[0] != want {
		t.Errorf("%+v, error %v", ids, err)
	}
}

func TestTokenOfAnotherAudienceIsFound(t *testing.T) {
	spec := &corev1.PodSpec{Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "openshift", Path: "token"}}},
	}}}}}
	for audience, want := range map[string]bool{"openshift": true, workload.TokenAudience: false} {
		var p pod
		p.findToken(spec, audience)
		if (p.projected != nil) != want {
			t.Errorf("%s: found %v", audience, p.projected)
		}
	}
}
