package podcache

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sidestep-agent/sidestep/pkg/config"
	"github.com/sidestep-agent/sidestep/pkg/workload"
)

func pass(reason string) workload.Decision {
	return workload.Decision{Verdict: workload.Pass, Reason: reason}
}

func deny(reason string) workload.Decision {
	return workload.Decision{Verdict: workload.Deny, Reason: reason}
}

func steer(reason string) workload.Decision {
	return workload.Decision{Verdict: workload.Steer, Access: workload.Identity, Reason: reason}
}

func metadataOnly(reason string) workload.Decision {
	return workload.Decision{Verdict: workload.Steer, Access: workload.MetadataOnly, Reason: reason}
}

func unknown(reason string) workload.Decision {
	return workload.Decision{Verdict: workload.Unknown, Reason: reason}
}

func with(change func(*config.AgentConfiguration)) *config.AgentConfiguration {
	c := config.Default()
	change(c)
	return c
}

func unlabeled(u config.Unlabeled) *config.AgentConfiguration {
	return with(func(c *config.AgentConfiguration) { c.Unlabeled = u })
}

func mustPolicy(t *testing.T, c *config.AgentConfiguration) *policy {
	t.Helper()
	p, err := newPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	either = with(func(c *config.AgentConfiguration) { c.Select = config.SelectEither })
	scoped = with(func(c *config.AgentConfiguration) {
		c.Scope.Namespaces = []string{"shop"}
		c.Unlabeled = config.UnlabeledDeny
	})
	aks          = withLabels("kubernetes.azure.com/managedby", "aks")
	byExpression = with(func(c *config.AgentConfiguration) {
		c.Exceptions = append(c.Exceptions,
			config.Exception{Namespaces: []string{"monitoring", "logging"}},
			config.Exception{PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
				Key: "tier", Operator: metav1.LabelSelectorOpIn, Values: []string{"system"},
			}}}})
		c.Unlabeled = config.UnlabeledDeny
	})
)

func TestDecidePods(t *testing.T) {
	audit := with(func(c *config.AgentConfiguration) { c.Mode = config.ModeAudit })
	none := with(func(c *config.AgentConfiguration) { c.Exceptions = nil })
	for name, tc := range map[string]struct {
		config    *config.AgentConfiguration
		namespace string
		pod       []podOption
		account   labelState
		want      workload.Decision
	}{
		"label":                        {config.Default(), "shop", []podOption{labeled}, labelUnknown, steer("label")},
		"label, audit":                 {audit, "shop", []podOption{labeled}, labelAbsent, steer("label")},
		"label of another value":       {config.Default(), "shop", []podOption{withLabels(workload.UseLabel, "True")}, labelAbsent, pass("unlabeled: pass")},
		"label in host network":        {config.Default(), "shop", []podOption{labeled, func(p *corev1.Pod) { p.Spec.HostNetwork = true }}, labelAbsent, steer("label")},
		"unlabelled, pass":             {config.Default(), "shop", nil, labelUnknown, pass("unlabeled: pass")},
		"unlabelled, metadata-only":    {unlabeled(config.UnlabeledMetadataOnly), "shop", nil, labelUnknown, metadataOnly("unlabeled: metadata-only")},
		"unlabelled, deny":             {unlabeled(config.UnlabeledDeny), "shop", nil, labelUnknown, deny("unlabeled: deny")},
		"account's label, select pod":  {config.Default(), "shop", nil, labelPresent, pass("unlabeled: pass")},
		"account's label, either":      {either, "shop", nil, labelPresent, steer("label on the service account")},
		"no label anywhere, either":    {either, "shop", nil, labelAbsent, pass("unlabeled: pass")},
		"account not seen, either":     {either, "shop", nil, labelUnknown, unknown("service account not seen")},
		"own label, account not seen":  {either, "shop", []podOption{labeled}, labelUnknown, steer("label")},
		"default exception":            {config.Default(), "kube-system", []podOption{aks, labeled}, labelPresent, pass("exception 1")},
		"its label elsewhere":          {config.Default(), "shop", []podOption{aks, labeled}, labelPresent, steer("label")},
		"its namespace, other labels":  {config.Default(), "kube-system", []podOption{labeled}, labelPresent, steer("label")},
		"no exceptions":                {none, "kube-system", []podOption{aks, labeled}, labelPresent, steer("label")},
		"exception by namespace":       {byExpression, "logging", nil, labelAbsent, pass("exception 2")},
		"exception by expression":      {byExpression, "shop", []podOption{withLabels("tier", "system")}, labelAbsent, pass("exception 3")},
		"expression without a match":   {byExpression, "shop", []podOption{withLabels("tier", "web")}, labelAbsent, deny("unlabeled: deny")},
		"in scope":                     {scoped, "shop", []podOption{labeled}, labelAbsent, steer("label")},
		"in scope, unlabelled":         {scoped, "shop", nil, labelAbsent, deny("unlabeled: deny")},
		"outside scope":                {scoped, "bank", []podOption{labeled}, labelAbsent, pass("outside scope.namespaces")},
		"exception before scope":       {scoped, "kube-system", []podOption{aks}, labelAbsent, pass("exception 1")},
		"skip-containers, not steered": {unlabeled(config.UnlabeledDeny), "shop", []podOption{withAnnotations(workload.SkipContainersAnnotation, "app")}, labelAbsent, deny("unlabeled: deny")},
		"skip-containers, no identity": {unlabeled(config.UnlabeledMetadataOnly), "shop", []podOption{withAnnotations(workload.SkipContainersAnnotation, "app")}, labelAbsent, metadataOnly("unlabeled: metadata-only")},
		"skip-containers, no such one": {config.Default(), "shop", []podOption{labeled, withAnnotations(workload.SkipContainersAnnotation, "proxy")}, labelAbsent, steer("label")},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(newTestPod(tc.namespace, "p", "u", "sa", tc.pod...))
			got, containers := mustPolicy(t, tc.config).decide(&p, tc.account, nil)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
			if containers != nil {
				t.Errorf("containers have decisions: %v", containers)
			}
		})
	}
}

func TestDecideSkippedContainers(t *testing.T) {
	o := newTestPod("shop", "p", "u", "sa", labeled,
		withAnnotations(workload.SkipContainersAnnotation, " proxy ;; debug;later"),
		withContainer("proxy", "id-proxy"), withContainer("later", ""))
	o.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "setup", ContainerID: "cri-o://id-setup"}}
	o.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "debug", ContainerID: "containerd://id-debug"}}
	p := newPod(o)
	for u, skipped := range map[config.Unlabeled]workload.Decision{
		config.UnlabeledPass:         pass("skip-containers, unlabeled: pass"),
		config.UnlabeledMetadataOnly: metadataOnly("skip-containers, unlabeled: metadata-only"),
		config.UnlabeledDeny:         deny("skip-containers, unlabeled: deny"),
	} {
		got, containers := mustPolicy(t, unlabeled(u)).decide(&p, labelAbsent, nil)
		if diff := cmp.Diff(unknown("skip-containers: container not known"), got); diff != "" {
			t.Errorf("%s: decision (-want +got):\n%s", u, diff)
		}
		want := map[string]workload.Decision{
			"u-app": steer("label"), "id-setup": steer("label"), "id-proxy": skipped, "id-debug": skipped,
		}
		if diff := cmp.Diff(want, containers); diff != "" {
			t.Errorf("%s: containers (-want +got):\n%s", u, diff)
		}
	}
}

func TestNewPolicyRefusesWhatParseWould(t *testing.T) {
	for name, c := range map[string]*config.AgentConfiguration{
		"unlabeled": unlabeled("steer"),
		"selector": with(func(c *config.AgentConfiguration) {
			c.Exceptions[0].PodSelector.MatchLabels = map[string]string{"a b": "c"}
		}),
	} {
		if _, err := newPolicy(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestDecideDeniesTheWireServer(t *testing.T) {
	skip := withAnnotations(workload.SkipContainersAnnotation, "app")
	deny := func(change func(*config.AgentConfiguration)) *config.AgentConfiguration {
		return with(func(c *config.AgentConfiguration) {
			c.WireServer = config.WireServerDeny
			change(c)
		})
	}
	byDefault := deny(func(*config.AgentConfiguration) {})
	for name, tc := range map[string]struct {
		config    *config.AgentConfiguration
		namespace string
		pod       []podOption
		want      bool
	}{
		"not configured":       {config.Default(), "shop", []podOption{labeled}, false},
		"not configured, skip": {config.Default(), "shop", []podOption{labeled, skip}, false},
		"steered":              {byDefault, "shop", []podOption{labeled}, true},
		"unlabelled, pass":     {byDefault, "shop", nil, true},
		"unlabelled, deny":     {deny(func(c *config.AgentConfiguration) { c.Unlabeled = config.UnlabeledDeny }), "shop", nil, true},
		"account not seen":     {deny(func(c *config.AgentConfiguration) { c.Select = config.SelectEither }), "shop", nil, true},
		"host network":         {byDefault, "shop", []podOption{func(p *corev1.Pod) { p.Spec.HostNetwork = true }}, true},
		"skip-containers":      {byDefault, "shop", []podOption{labeled, skip, withContainer("other", "id-other")}, true},
		"exception":            {byDefault, "kube-system", []podOption{aks, labeled, skip}, false},
		"outside scope":        {deny(func(c *config.AgentConfiguration) { c.Scope.Namespaces = []string{"bank"} }), "shop", []podOption{labeled}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(newTestPod(tc.namespace, "p", "u", "sa", tc.pod...))
			got, containers := mustPolicy(t, tc.config).decide(&p, labelUnknown, nil)
			if got.DenyWireServer != tc.want {
				t.Errorf("DenyWireServer = %v, want %v", got.DenyWireServer, tc.want)
			}
			for id, d := range containers {
				if d.DenyWireServer != tc.want {
					t.Errorf("DenyWireServer of %s = %v, want %v", id, d.DenyWireServer, tc.want)
				}
			}
		})
	}
}

// Without a valid configuration nothing says who may pass.
func TestHeldConfigurationHoldsEveryPod(t *testing.T) {
	system := newTestPod("kube-system", "dns", "u2", "dns")
	system.Labels = map[string]string{"kubernetes.azure.com/managedby": "aks"}
	c := newCluster(t, config.Held(),
		newTestPod("shop", "cart", "u1", "cart", labeled), system,
		newTestPod("shop", "web", "u3", "web")).start(t)
	for _, uid := range []string{"u1", "u2", "u3"} {
		if got := c.verdict(uid); got != workload.Unknown {
			t.Errorf("%s: %v, want to be held", uid, got)
		}
	}
	if err := c.SetConfig(config.Default()); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[string]workload.Verdict{"u1": workload.Steer, "u2": workload.Pass, "u3": workload.Pass} {
		if got := c.verdict(uid); got != want {
			t.Errorf("%s: %v once there is a configuration, want %v", uid, got, want)
		}
	}
}
