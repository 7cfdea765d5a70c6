package main

import (
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// The policy applies to the agent's own account, wherever that may ask
// for tokens; and the agent has the flag. What it refuses, the node tests show.
func TestTokenRequestsHaveTheirPolicy(t *testing.T) {
	objects := rendered(t)["token-request"]
	account := one[*corev1.ServiceAccount](t, objects)
	policy := one[*admissionv1.ValidatingAdmissionPolicy](t, objects)
	binding := one[*admissionv1.ValidatingAdmissionPolicyBinding](t, objects)
	if binding.Spec.PolicyName != policy.Name || !slices.Equal(binding.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) {
		t.Errorf("binding %+v", binding.Spec)
	}
	if f := policy.Spec.FailurePolicy; f == nil || *f != admissionv1.Fail {
		t.Error("a policy that cannot be evaluated must refuse")
	}
	conditions := policy.Spec.MatchConditions
	user := "'system:serviceaccount:" + account.Namespace + ":" + account.Name + "'"
	if len(conditions) != 1 || !strings.Contains(conditions[0].Expression, user) {
		t.Errorf("conditions %v, want one with %s", conditions, user)
	}
	for _, v := range policy.Spec.Validations {
		if v.Message == "" {
			t.Errorf("no message: %s", v.Expression)
		}
	}
	env := one[*appsv1.DaemonSet](t, objects).Spec.Template.Spec.Containers[0].Env
	if !slices.Contains(env, corev1.EnvVar{Name: "SIDESTEP_TOKEN_REQUEST", Value: "true"}) {
		t.Errorf("environment %v", env)
	}
}
