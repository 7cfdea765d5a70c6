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
		"one sets it":                    {[]corev1.Container{container("a", set("1")), container("b")}, "", "1", ""},
		"two differ":                     {[]corev1.Container{container("a", set("1")), container("b", set("2"))}, "", "", "different values"},
		"two differ, the first asks":     {[]corev1.Container{container("a", set("1")), container("b", set("2"))}, "a", "1", ""},
		"two differ, the second asks":    {[]corev1.Container{container("a", set("1")), container("b", set("2"))}, "b", "2", ""},
		"another has it":                 {[]corev1.Container{container("a", set("1")), container("b")}, "b", "", ""},
		"from a secret":                  {[]corev1.Container{container("a", from)}, "", "", "the container a takes AZURE_CLIENT_ID from a secret"},
		"from a secret, it asks":         {[]corev1.Container{container("a", from), container("b", set("2"))}, "a", "", "the container a takes AZURE_CLIENT_ID"},
		"from a secret, another asks":    {[]corev1.Container{container("a", from), container("b", set("2"))}, "b", "2", ""},
		"from a secret, unknown":         {[]corev1.Container{container("a", set("1")), container("b", from)}, "", "", "the container b takes AZURE_CLIENT_ID"},
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
		got, unclear := newClientIDs(&corev1.PodSpec{Containers: tt.containers}).of(tt.caller)
		if got != tt.want || (unclear == "") != (tt.unclear == "") || !strings.Contains(unclear, tt.unclear) {
			t.Errorf("%s: %q, unclear %q; want %q, %q", name, got, unclear, tt.want, tt.unclear)
		}
	}
}

// Lookup gives a container that is known its own identity, unless the service
// account says one for all.
func TestCallersOfOnePodHaveTheirOwnIdentity(t *testing.T) {
	r := &record{pod: pod{
		clientIDs:    clientIDs{"a": "1", "b": "2", "c": ""},
		containerIDs: map[string]string{"id-a": "a", "id-b": "b", "id-c": "c", "id-d": "d"},
	}}
	for _, annotated := range []bool{false, true} {
		a := &account{object: &serviceAccount{}}
		if annotated {
			a.object.clientID = "annotated"
		}
		c := &Cache{entries: map[string]*entry{"pod": {workload: newWorkload(r, a, ""), callers: newCallers(r, a)}}}
		for id, want := range map[string]string{"id-a": "1", "id-b": "2", "id-c": "", "id-d": "", "": "", "id-new": ""} {
			w, _, ok := c.Lookup(workload.CgroupRef{PodUID: "pod", ContainerID: id})
			unclear := want == "" && id != "id-d"
			if annotated {
				want, unclear = "annotated", false
			}
			if !ok || w.ClientID != want || (w.ClientIDUnclear != "") != unclear {
				t.Errorf("annotated %t, %q: client id %q, unclear %q", annotated, id, w.ClientID, w.ClientIDUnclear)
			}
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
