package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	corev1 "k8s.io/api/core/v1"

	"github.com/sidestep-agent/sidestep/pkg/status"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

type (
	reportOf  = *status.Report
	podOf     = *status.Pod
	accountOf = *status.ServiceAccount
)

// answered has the pod's last request fail.
func answered(a status.Answer) func(*scene) {
	return func(s *scene) {
		a.At = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
		s.change(func(_ reportOf, p podOf, _ accountOf) { p.Token = &a })
	}
}

// said has it fail with a code of Entra's.
func said(code string) func(*scene) {
	return answered(status.Answer{Error: code + ": in plain words", Explained: true, Fix: "az fix"})
}

func verdict(verdict, access, reason string) func(reportOf, podOf, accountOf) {
	return func(_ reportOf, p podOf, _ accountOf) { p.Verdict, p.Access, p.Reason = verdict, access, reason }
}

// breakage is one way in which a pod gets no token, or a variant that works.
type breakage struct {
	breaks func(*scene)
	links  string // the broken ones
	detail string // part of the first one's
	fix    string // part of the first one's
}

var breakages = map[string]breakage{
	"nothing": {func(*scene) {}, "", "", ""},
	"no label": {func(s *scene) {
		s.pod.Labels = nil
		s.change(verdict("pass", "", "unlabeled: pass"))
	}, "label,rules", "the pod has no label", "patch deployment web"},
	"label on the service account alone": {func(s *scene) {
		s.pod.Labels, s.account.Labels = nil, s.pod.Labels
		s.change(verdict("pass", "", "unlabeled: pass"))
	}, "label,rules", "the service account has the label", "patch deployment web"},
	"label with another value": {func(s *scene) {
		s.pod.Labels = map[string]string{workload.UseLabel: "yes"}
		s.change(verdict("pass", "", "unlabeled: pass"))
	}, "label,rules", `"yes"`, "patch deployment web"},
	"label on the service account, which counts": {func(s *scene) {
		s.pod.Labels, s.account.Labels = nil, s.pod.Labels
		s.change(verdict("steer", "identity", "label on the service account"))
	}, "", "", ""},
	"exception": {func(s *scene) { s.change(verdict("pass", "", "exception 1")) },
		"rules", "verdict pass by exception 1", "edit configmap"},
	"audit": {func(s *scene) { s.change(func(r reportOf, _ podOf, _ accountOf) { r.Mode = "audit" }) },
		"rules", "mode is audit", "edit configmap"},
	"no listener": {func(s *scene) { s.change(func(_ reportOf, p podOf, _ accountOf) { p.Listener = 0 }) },
		"listener", "no listener", "logs agent-1"},
	"node delivery": {func(s *scene) {
		s.change(func(r reportOf, p podOf, _ accountOf) { p.Listener, r.Delivery = 0, "node" })
	}, "", "", ""},
	"no process": {func(s *scene) { s.change(func(_ reportOf, p podOf, _ accountOf) { p.CgroupID = 0 }) },
		"listener", "no process", "describe pod"},
	"not known to the agent": {func(s *scene) { s.change(func(_ reportOf, p podOf, _ accountOf) { p.Name = "another" }) },
		"listener", "does not know", "logs agent-1"},
	"no token volume": {func(s *scene) { s.pod.Spec.Volumes = nil },
		"assertion", "no volume", "rollout restart deployment web"},
	"token for another audience": {func(s *scene) { s.pod.Spec.Volumes = []corev1.Volume{tokenVolume("vault")} },
		"assertion", "for the audience vault", "rollout restart deployment web"},
	"identity binding": {func(s *scene) { s.bind("https://kubernetes.default.svc") }, "", "", ""},
	"identity binding without its proxy": {func(s *scene) { s.bind("") },
		"assertion", "for the audience api://AKSIdentityBinding", "rollout restart deployment web"},
	"token asked for": {func(s *scene) {
		s.pod.Spec.Volumes = nil
		s.change(func(r reportOf, _ podOf, _ accountOf) { r.TokenRequest = true })
	}, "", "", ""},
	"no client id": {func(s *scene) {
		s.account.Annotations = nil
		s.change(func(_ reportOf, p podOf, _ accountOf) { p.ClientID = "" })
	}, "client id", "no annotation", "annotate"},
	"client id from a secret": {func(s *scene) {
		s.clientIDs(corev1.EnvVar{Name: "AZURE_CLIENT_ID", ValueFrom: &corev1.EnvVarSource{}})
	}, "client id", "cannot be read, by container: web: from a secret or ConfigMap", "annotate"},
	"client id of one container": {func(s *scene) {
		s.clientIDs(corev1.EnvVar{Name: "AZURE_CLIENT_ID", Value: "own"})
	}, "", "", ""},
	"no service account": {func(s *scene) { s.account = nil }, "client id", "does not exist", "create serviceaccount web"},
	"no tenant": {func(s *scene) { s.change(func(_ reportOf, _ podOf, a accountOf) { a.TenantID = "" }) },
		"tenant", "no tenant", "annotate"},
	"wrong tenant":  {said("AADSTS700016"), "exchange", "AADSTS700016: in plain words", "az fix"},
	"no federation": {said("AADSTS700213"), "exchange", "AADSTS700213: in plain words", "az fix"},
	"a scope for a resource": {answered(status.Answer{
		Error: "AADSTS500011: the application asks for the scope x/.default where a resource belongs: it must ask for x", Explained: true,
	}), "exchange", "it must ask for x", ""},
	"nothing is known of the cause": {answered(status.Answer{Error: "AADSTS123456: Entra's words"}), "exchange", "Entra's words", "logs agent-1"},
	"another pod of the account failed": {func(s *scene) {
		s.change(func(_ reportOf, _ podOf, a accountOf) { a.LastError, a.Fix = "AADSTS500011: not ours", "az fix" })
	}, "", "", ""},
	"another pod of the account failed, and this one has not asked": {func(s *scene) {
		s.change(func(_ reportOf, p podOf, a accountOf) {
			p.Token, a.LastError, a.Fix = nil, "AADSTS500011: not ours", "az fix"
		})
	}, "", "", ""},
	"skip-containers": {func(s *scene) { s.skipContainers("steer") }, "", "", ""},
	"skip-containers that skip all": {func(s *scene) { s.skipContainers("pass") },
		"rules", "by container: app: pass by label; proxy: pass by skip-containers", "edit configmap"},
	"skip-containers and audit": {func(s *scene) {
		s.skipContainers("steer")
		s.change(func(r reportOf, _ podOf, _ accountOf) { r.Mode = "audit" })
	}, "rules", "mode is audit", "edit configmap"},
	"skip-containers without a listener": {func(s *scene) {
		s.skipContainers("steer")
		s.change(func(_ reportOf, p podOf, _ accountOf) { p.Listener = 0 })
	}, "listener", "no listener", "logs agent-1"},
	"requests go to a proxy": {func(s *scene) {
		s.environment("HTTP_PROXY", "http://proxy:3128", "NO_PROXY", ".svc,10.0.0.0/8")
		s.change(func(_ reportOf, p podOf, _ accountOf) { p.Token = nil })
	}, "traffic", "HTTP_PROXY is set for container app", "set env deployment/web --containers=app NO_PROXY=.svc,10.0.0.0/8,169.254.169.254"},
	"requests go to a proxy, in small letters": {func(s *scene) {
		s.environment("http_proxy", "proxy:3128")
		s.change(func(_ reportOf, p podOf, _ accountOf) { p.Token = nil })
	}, "traffic", "HTTP_PROXY is set", "NO_PROXY=169.254.169.254"},
	"a proxy, and a token all the same": {func(s *scene) { s.environment("HTTP_PROXY", "http://proxy:3128") }, "", "", ""},
	"a proxy for others":                {func(s *scene) { s.environment("HTTP_PROXY", "http://proxy:3128", "no_proxy", "169.254.0.0/16") }, "", "", ""},
	"a proxy for TLS alone":             {func(s *scene) { s.environment("HTTPS_PROXY", "http://proxy:3128") }, "", "", ""},
	"mesh sidecar and node delivery": {func(s *scene) {
		s.pod.Spec.InitContainers = []corev1.Container{{Name: "istio-proxy"}}
		s.change(func(r reportOf, p podOf, _ accountOf) { p.Listener, r.Delivery = 0, "node" })
	}, "traffic", "istio-proxy", "excludeOutboundIPRanges"},
	"mesh sidecar that leaves the listener alone": {func(s *scene) {
		s.pod.Spec.Containers = []corev1.Container{{Name: "istio-proxy"}}
		s.pod.Annotations = map[string]string{"traffic.sidecar.istio.io/excludeOutboundIPRanges": "169.254.169.252/32"}
		s.change(func(r reportOf, p podOf, _ accountOf) { p.Listener, r.Delivery = 0, "node" })
	}, "", "", ""},
	"mesh sidecar and pod delivery": {func(s *scene) { s.pod.Spec.Containers = []corev1.Container{{Name: "istio-proxy"}} }, "", "", ""},
	"only the API server's token": {func(s *scene) { s.pod.Spec.Volumes = []corev1.Volume{tokenVolume("")} },
		"assertion", "no volume", "rollout restart deployment web"},
	"nobody asked": {func(s *scene) {
		s.change(func(_ reportOf, p podOf, _ accountOf) { p.Token = nil })
	}, "", "", ""},
	"agent not ready": {func(s *scene) {
		s.change(func(r reportOf, _ podOf, _ accountOf) {
			r.Ready, r.Problems = false, []string{"not ready: so and so"}
		})
	}, "agent", "so and so", "logs agent-1"},
	"agent down": {func(s *scene) { s.change(func(r reportOf, _ podOf, _ accountOf) { r.Version = "" }) },
		"agent", "does not answer", "get pods"},
	"no agent":       {func(s *scene) { s.agents = nil }, "agent", "no agent runs on node node-1", "get daemonset"},
	"not scheduled":  {func(s *scene) { s.pod.Spec.NodeName = "" }, "agent", "on no node", "describe pod"},
	"while replaced": {func(s *scene) { s.agents = []string{"agent-0", "agent-1"} }, "", "", ""},
}

func TestExplainNamesTheBrokenLink(t *testing.T) {
	for name, tc := range breakages {
		t.Run(name, func(t *testing.T) {
			s := newScene()
			s.reports["agent-0"] = status.Report{Node: "node-1"} // does not answer
			tc.breaks(s)
			var out bytes.Buffer
			err := explain(t.Context(), s.cluster(), &out, "shop", "web-1", "json")
			if wantErr := tc.links != ""; errors.Is(err, errBroken) != wantErr {
				t.Errorf("error %v", err)
			}
			var got explanation
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			var broken []link
			var names []string
			for _, l := range got.Links {
				if l.State == "BROKEN" {
					broken, names = append(broken, l), append(names, l.Name)
				}
			}
			if strings.Join(names, ",") != tc.links {
				t.Fatalf("broken: %+v, want %q", broken, tc.links)
			}
			if len(broken) > 0 && (!strings.Contains(broken[0].Detail, tc.detail) || !strings.Contains(broken[0].Fix, tc.fix) || tc.fix == "" && broken[0].Fix != "") {
				t.Errorf("%+v, want %q and %q", broken[0], tc.detail, tc.fix)
			}
		})
	}
}

// One pod's bad request blames no other pod of the service account, though it is
// named; whose it was is never said of the pod that did not make it.
func TestExplainSaysWhatThePodWasAnswered(t *testing.T) {
	failed := time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)
	const note = "; the last exchange of its service account failed, for another pod or ahead of time: AADSTS500011: not ours (2026-03-01T09:30:00Z)"
	const got = "token at 2026-03-01T09:00:00Z, good until 2026-03-01T10:00:00Z"
	for name, tc := range map[string]struct {
		change func(reportOf, podOf, accountOf)
		want   link
	}{
		"nobody failed": {func(reportOf, podOf, accountOf) {}, link{State: ok, Detail: got}},
		"another pod failed later": {func(_ reportOf, _ podOf, a accountOf) {
			a.LastError, a.LastExchange, a.Fix = "AADSTS500011: not ours", failed, "az fix"
		}, link{State: ok, Detail: got + note}},
		"another pod failed before": {func(_ reportOf, p podOf, a accountOf) {
			a.LastError, a.LastExchange = "AADSTS500011: not ours", failed.Add(-time.Hour)
		}, link{State: ok, Detail: got}},
		"another pod failed, and this one has not asked": {func(_ reportOf, p podOf, a accountOf) {
			p.Token, a.LastError, a.LastExchange, a.Fix = nil, "AADSTS500011: not ours", failed, "az fix"
		}, link{State: unknown, Detail: "the pod has not asked this agent for a token yet" + note}},
		"this pod failed, and another got a token later": {func(_ reportOf, p podOf, a accountOf) {
			p.Token = &status.Answer{At: failed, Error: "AADSTS500011: ours", Explained: true}
			a.LastExchange, a.ExpiresOn = failed.Add(time.Hour), failed.Add(2*time.Hour)
		}, link{State: broken, Detail: "AADSTS500011: ours (2026-03-01T09:30:00Z)"}},
	} {
		s := newScene()
		s.change(tc.change)
		f, err := s.cluster().gather(t.Context(), "shop", "web-1")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, judgeExchange(f)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Where containers differ in their default identity, each one's is said.
func TestExplainSaysClientIDsByContainer(t *testing.T) {
	s := newScene()
	s.clientIDs(corev1.EnvVar{Name: "AZURE_CLIENT_ID", Value: "old"}, corev1.EnvVar{Name: "AZURE_CLIENT_ID", Value: "own"})
	f, err := s.cluster().gather(t.Context(), "shop", "web-1")
	if err != nil {
		t.Fatal(err)
	}
	want := link{State: ok, Detail: "by container, as AZURE_CLIENT_ID in the pod's spec: web: own; sidecar: none"}
	if diff := cmp.Diff(want, judgeClientID(f)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What containers in a container ask is said, though the pod itself is fine.
func TestExplainNamesNestedContainers(t *testing.T) {
	for image, want := range map[string]bool{"docker:27-dind": true, "registry.example/docker": true, "registry.example/app:1": false} {
		s := newScene()
		s.pod.Spec.Containers = []corev1.Container{{Name: "runner", Image: image, SecurityContext: &corev1.SecurityContext{Privileged: new(true)}}}
		var out bytes.Buffer
		if err := explain(t.Context(), s.cluster(), &out, "shop", "web-1", "table"); err != nil {
			t.Error(err)
		}
		if got := strings.Contains(out.String(), "container runner starts"); got != want {
			t.Errorf("%s:\n%s", image, &out)
		}
	}
}

func TestExplainPrints(t *testing.T) {
	s := newScene()
	answered(status.Answer{Error: "AADSTS1: a\x1b[31mtrick", Explained: true, Fix: "az it"})(s)
	var table, text bytes.Buffer
	if err := explain(t.Context(), s.cluster(), &table, "shop", "web-1", "table"); !errors.Is(err, errBroken) {
		t.Error(err)
	}
	for _, want := range []string{
		"pod shop/web-1 on node node-1, service account web\n",
		"\nok       label       azure.workload.identity/use: \"true\"\n",
		"\nBROKEN   exchange    AADSTS1: a [31mtrick",
		"\nto fix the exchange:\n  az it\n",
	} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in\n%s", want, &table)
		}
	}
	if err := explain(t.Context(), s.cluster(), &text, "shop", "web-1", "yaml"); !errors.Is(err, errBroken) {
		t.Error(err)
	}
	var e explanation
	if err := yaml.UnmarshalStrict(text.Bytes(), &e); err != nil || len(e.Links) != 9 {
		t.Errorf("%v: %s", err, &text)
	}
	if err := explain(t.Context(), s.cluster(), &text, "shop", "web-1", "xml"); err == nil || errors.Is(err, errBroken) {
		t.Errorf("xml: %v", err)
	}
	if err := explain(t.Context(), s.cluster(), &text, "shop", "web-2", "table"); err == nil || !strings.Contains(err.Error(), "no pod web-2") {
		t.Errorf("a pod that is not there: %v", err)
	}
}
