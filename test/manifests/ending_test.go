package main

import (
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// leave is how long the agent takes once it has ceased to serve: clients with
// connections are asked to leave (30 s), requests under way answered (25 s).
const leave = 55 * time.Second

// The kubelet kills a pod when its grace period is over: an agent that is
// asked to stop must be done by then.
func TestTheGracePeriodIsLongEnough(t *testing.T) {
	serves := drainTimeout(t)
	for name, objects := range rendered(t) {
		if !asksAPI(name) || name == "uninstall" {
			continue
		}
		spec := one[*appsv1.DaemonSet](t, objects).Spec.Template.Spec
		agent := spec.Containers[0]
		if grace := time.Duration(*spec.TerminationGracePeriodSeconds) * time.Second; serves < 30*time.Second || grace < serves+leave {
			t.Errorf("%s: %v of grace for an agent that serves for %v and then needs %v", name, grace, serves, leave)
		}
		if agent.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError {
			t.Errorf("%s: what ended the agent is not in its pod's status", name)
		}
	}
}

// drainTimeout returns for how long the agent serves, by the reference of its
// flags, which is generated from them.
func drainTimeout(t *testing.T) time.Duration {
	t.Helper()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("`SIDESTEP_DRAIN_TIMEOUT` \\| `([^`]+)`").FindStringSubmatch(string(page))
	if row == nil {
		t.Fatal("the reference has no SIDESTEP_DRAIN_TIMEOUT")
	}
	d, err := time.ParseDuration(row[1])
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A Service of the namespace must not make variables that look like flags, and
// the autoscaler must not take the agent from pods that still run.
func TestOthersDoNotReachIntoThePod(t *testing.T) {
	for name, objects := range rendered(t) {
		if !asksAPI(name) || name == "uninstall" {
			continue
		}
		pod := one[*appsv1.DaemonSet](t, objects).Spec.Template
		if links := pod.Spec.EnableServiceLinks; links == nil || *links {
			t.Errorf("%s: Services make variables in the agent's pod", name)
		}
		if pod.Annotations["cluster-autoscaler.kubernetes.io/enable-ds-eviction"] != "false" {
			t.Errorf("%s: the cluster autoscaler may evict the agent with the pods that it serves", name)
		}
	}
}

// The ConfigMap that the agent watches is the one that it may watch, and that
// its file is mounted from.
func TestTheAgentMayWatchItsConfiguration(t *testing.T) {
	for name, objects := range rendered(t) {
		if !asksAPI(name) || name == "uninstall" {
			continue
		}
		spec := one[*appsv1.DaemonSet](t, objects).Spec.Template.Spec
		i := slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == "config" })
		mounted := spec.Volumes[i].ConfigMap.Name
		if got, want := variable(spec.Containers[0], "SIDESTEP_CONFIG_MAP"), "sidestep-system/"+mounted; got != want {
			t.Errorf("%s: watches %q, mounted is %q", name, got, want)
		}
		roles := only[*rbacv1.Role](objects)
		allowed := slices.ContainsFunc(roles, func(r *rbacv1.Role) bool {
			return r.Namespace == "sidestep-system" && slices.Equal(r.Rules[0].ResourceNames, []string{mounted})
		})
		if !allowed {
			t.Errorf("%s: no Role allows it ConfigMap %s by its name", name, mounted)
		}
	}
}

func variable(c corev1.Container, name string) string {
	i := slices.IndexFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == name })
	if i < 0 {
		return ""
	}
	return c.Env[i].Value
}
