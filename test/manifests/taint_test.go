package main

import (
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// Whoever may change nodes is held by a policy that applies to its
// account, and is asked to remove the taint. What it refuses, the node tests
// show.
func TestTaintsHaveTheirPolicy(t *testing.T) {
	for _, name := range []string{"taint", "uninstall"} {
		objects := rendered(t)[name]
		account := one[*corev1.ServiceAccount](t, objects)
		policy := one[*admissionv1.ValidatingAdmissionPolicy](t, objects)
		binding := one[*admissionv1.ValidatingAdmissionPolicyBinding](t, objects)
		if binding.Spec.PolicyName != policy.Name || !slices.Equal(binding.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) {
			t.Errorf("%s: binding %+v", name, binding.Spec)
		}
		if f := policy.Spec.FailurePolicy; f == nil || *f != admissionv1.Fail {
			t.Errorf("%s: a policy that cannot be evaluated must refuse", name)
		}
		user := "'system:serviceaccount:" + account.Namespace + ":" + account.Name + "'"
		conditions := policy.Spec.MatchConditions
		if len(conditions) != 1 || !strings.Contains(conditions[0].Expression, user) {
			t.Errorf("%s: conditions %v, want one with %s", name, conditions, user)
		}
		pod := one[*appsv1.DaemonSet](t, objects).Spec.Template.Spec
		if pod.ServiceAccountName != account.Name || pod.AutomountServiceAccountToken == nil || !*pod.AutomountServiceAccountToken {
			t.Errorf("%s: the pod has no token of the account", name)
		}
		container := pod.Containers[0]
		set := slices.Contains(container.Args, "--remove-taint") ||
			slices.Contains(container.Env, corev1.EnvVar{Name: "SIDESTEP_REMOVE_TAINT", Value: "true"})
		if !set {
			t.Errorf("%s: arguments %q, environment %v", name, container.Args, container.Env)
		}
	}
}

// An uninstalled agent cannot be left beside one that runs: the steps delete
// it first, and the objects that they apply bring none back.
func TestUninstallBringsNoAgent(t *testing.T) {
	all := rendered(t)
	agent := one[*appsv1.DaemonSet](t, all["base"])
	uninstall := one[*appsv1.DaemonSet](t, all["uninstall"])
	if agent.Name == uninstall.Name {
		t.Errorf("both DaemonSets are %s", agent.Name)
	}
	selected := agent.Spec.Selector.MatchLabels
	for key, value := range selected {
		if uninstall.Spec.Template.Labels[key] == value {
			t.Errorf("the agent's DaemonSet selects the pods of %s by %s=%s", uninstall.Name, key, value)
		}
	}
	if got, want := uninstall.Spec.Template.Spec.Containers[0].Image, agent.Spec.Template.Spec.Containers[0].Image; got != want {
		t.Errorf("image %s, the agent's is %s", got, want)
	}
}
