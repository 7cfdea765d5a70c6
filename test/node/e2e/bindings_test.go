package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	"github.com/sidestep-agent/sidestep/test/standins/federation"
	"github.com/sidestep-agent/sidestep/test/standins/tokenproxy"
)

const (
	proxyAt  = "10.224.0.4:9443" // the node's address: the agent and pods reach it
	proxySNI = "a0b1c2d3.ests.aks"
)

// startTokenProxy runs the stand-in for the proxy of identity bindings, at
// which team-b's service account "bound" may be app-two; Entra's own stand-in
// knows nothing of that.
func startTokenProxy(t *testing.T) {
	t.Helper()
	file := known
	file.Identities = slices.Clone(known.Identities)
	for i := range file.Identities {
		if id := &file.Identities[i]; id.Name == "app-two" {
			id.FederatedCredentials = append(slices.Clone(id.FederatedCredentials),
				federation.Credential{Subject: "system:serviceaccount:team-b:bound", Audience: tokenproxy.Audience})
		}
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryInNode(text, "bash", "-c", "cat >/run/standins/bindings.yaml"); err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(inNode(t, "bash", "-c", "setsid tokenproxy -federation /run/standins/bindings.yaml"+
		" -state /run/node/pki -log /run/standins/tokenproxy.jsonl -listen "+proxyAt+" -sni "+proxySNI+
		" -issuer-connect 127.0.0.1:6443 </dev/null >/run/node/log/tokenproxy.log 2>&1 & echo $!"))
	t.Cleanup(func() { inNode(t, "kill", pid) })
	eventually(t, 10*time.Second, func() error {
		_, err := tryInNode(nil, "bash", "-c", "exec 3<>/dev/tcp/"+strings.Replace(proxyAt, ":", "/", 1))
		return err
	})
}

// boundPod returns a pod as webhook 1.6.0 makes it for the annotation
// azure.workload.identity/use-identity-binding.
func boundPod(p pod) *corev1.Pod {
	two := identity("app-two")
	p.token = newVolume
	p.env = map[string]string{
		"AZURE_CLIENT_ID": two.ClientID, "AZURE_TENANT_ID": two.TenantID,
		"AZURE_AUTHORITY_HOST":         "https://login.microsoftonline.com/",
		"AZURE_FEDERATED_TOKEN_FILE":   newVolume.mount + "/" + newVolume.file,
		"AZURE_KUBERNETES_TOKEN_PROXY": "https://" + proxyAt,
		"AZURE_KUBERNETES_SNI_NAME":    proxySNI,
		"AZURE_KUBERNETES_CA_FILE":     newVolume.mount + "/ca-cert/ca.crt",
	}
	object := p.object()
	projected := object.Spec.Volumes[0].Projected
	projected.Sources[0].ServiceAccountToken.Audience = tokenproxy.Audience
	projected.Sources = append(projected.Sources, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
		LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
		Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca-cert/ca.crt"}},
	}})
	return object
}

// setTokenProxy tells the agent which proxy pods may name; "": none besides
// the API server's.
func setTokenProxy(t *testing.T, url string) {
	t.Helper()
	change := "SIDESTEP_TOKEN_PROXY=" + url
	if url == "" {
		change = "SIDESTEP_TOKEN_PROXY-"
	}
	kubectl(t, "-n", system, "set", "env", "daemonset/sidestep-agent", change)
	rolledOut(t)
}

// A pod with an identity binding gets its token through the cluster's proxy,
// though its program is an old one that knows IMDS alone; the agent sends what
// azidentity sends.
func TestIdentityBindings(t *testing.T) {
	needNode(t)
	startTokenProxy(t)
	bound := pod{namespace: teamB, name: "bound", account: "bound", labelled: true}
	apply(t, account(teamB, "bound", map[string]string{annotationClient: identity("app-two").ClientID}))
	apply(t, boundPod(bound))
	t.Cleanup(func() { kubectl(t, "-n", teamB, "delete", "pod", bound.name, "--wait=false") })
	kubectl(t, "-n", teamB, "wait", "--for=condition=Ready", "pod/"+bound.name, "--timeout=60s")
	if got := bound.who(t); !strings.Contains(got, "start the agent with --token-proxy https://"+proxyAt) {
		t.Errorf("a proxy that is not allowed: %q", got)
	}
	t.Cleanup(func() { setTokenProxy(t, "") })
	setTokenProxy(t, "https://"+proxyAt)
	t.Cleanup(func() {
		if t.Failed() { // its next restart takes the log along
			t.Log(kubectl(t, "-n", system, "logs", "daemonset/sidestep-agent", "--tail=20"))
		}
	})
	atEntra := sinceNow[entra.Entry](t, "entra")
	bound.becomes(t, "app-two")
	var sdk struct{ OID, Error string }
	out := kubectl(t, "-n", teamB, "exec", bound.name, "--", "/bindingclient")
	if err := json.Unmarshal([]byte(out), &sdk); err != nil || named(sdk.OID) != "app-two" {
		t.Errorf("azidentity by itself: %s, %v", out, err)
	}
	compareSent(t, entries[tokenproxy.Entry](t, "tokenproxy"))
	for _, e := range atEntra() {
		if e.Subject == "system:serviceaccount:team-b:bound" {
			t.Errorf("Entra itself was sent the token: %+v", e)
		}
	}
}

// compareSent makes sure that nothing was refused, and that the agent's token
// request and azidentity's are the same.
func compareSent(t *testing.T, sent []tokenproxy.Entry) {
	t.Helper()
	byClient := map[bool]string{}
	for _, e := range sent {
		if e.Refused != "" {
			t.Errorf("refused: %+v", e)
		}
		if e.Method == http.MethodPost {
			byClient[strings.HasPrefix(e.UserAgent, "azsdk-go-azidentity/")] = fmt.Sprint(e.Method, " ", e.Path, " ", e.Fields, " ", e.Subject)
		}
	}
	if byClient[true] == "" || byClient[true] != byClient[false] {
		t.Errorf("azidentity sent %q, the agent %q", byClient[true], byClient[false])
	}
	t.Log(byClient[false])
}
