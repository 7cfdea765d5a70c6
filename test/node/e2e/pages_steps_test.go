package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What the pages' reader has: the README's shop, and names of his own.
const (
	shopName = "shop"
	checkout = "checkout"
	image    = "docker.io/library/sidestep-agent:v0.1.0" // as containerd has it
)

func (d desk) pages() []page {
	group := map[string]string{"group": "rg-shop", "cluster": "prod", "identity": checkout}
	mine := map[string]string{"namespace": shopName, "pod": "web"}
	moving := map[string]string{"overlay": "copy/overlays/canary", "namespace": shopName, "account": checkout, "deployment": checkout}
	for name, value := range group {
		moving[name] = value
	}
	chart := map[string]string{
		"registry": strings.TrimSuffix(image, "/sidestep-agent:v0.1.0"), "tenant": known.Tenants[0],
		"namespace": shopName, "user": "somebody", "password": "secret",
	}
	canary := []step{
		{block: "grep token_issued", before: usesTheVault},
		{block: `apply -k "$overlay"`, before: isCanary, after: isReady},
	}
	return []page{
		// These take the settings of the rig away with the namespace; the next puts
		// them there again.
		{name: "charts/sidestep-agent/README.md", variables: chart, steps: []step{
			{block: "helm install", before: takeOff, after: func(t *testing.T, printed string) { isReady(t, printed); d.helmUninstall(t) }},
		}},
		{name: "docs/install.md", shop: true, variables: chart, steps: []step{
			{block: "helm install", before: takeOff, after: func(t *testing.T, printed string) { isReady(t, printed); d.helmUninstall(t) }},
			{block: "out/manifests/base.yaml", after: isReady},
		}},
		{name: "docs/configuration.md", variables: map[string]string{"tenant": known.Tenants[0]}, steps: []step{
			{block: "create configmap", before: forgetSettings, after: trustEntra},
		}},
		{name: "docs/addons.md"},
		{name: "docs/migrate-from-sidecar.md", shop: true, variables: moving, steps: append([]step{
			{block: "custom-columns", after: listsSidecars},
			{block: `patch deployment "$deployment"`, after: hasNoSidecar},
		}, canary...)},
		{name: "docs/migrate-from-pod-identity.md", shop: true, variables: moving, begin: d.podIdentity, steps: canary},
		{name: "docs/node-start.md", steps: []step{
			{block: "overlays/taint", after: isReady},
			{block: "overlays/boot-guard", before: hasUnits, after: func(t *testing.T, printed string) { isReady(t, printed); removeBootGuard(t) }},
		}},
		{name: "docs/closed.md", steps: []step{{block: "overlays/recommended", after: isReady}}},
		{name: "docs/observability.md", begin: prometheusKinds},
		{name: "docs/troubleshooting.md", shop: true, variables: mine, begin: startWeb, steps: []step{
			{block: "--previous", before: crashAgent},
			{block: "put back", before: unpin},
		}},
		{name: "README.md", shop: true, variables: group, steps: []step{
			{block: "create configmap", before: forgetSettings, after: trustEntra},
			{block: "sidestep explain", after: func(t *testing.T, printed string) { isWhole(t, printed); usesTheVault(t) }},
		}},
		{name: "docs/uninstall.md", steps: []step{
			{block: "manifests/uninstall", after: func(t *testing.T, printed string) { saysUninstalled(t, printed); installAnew(t) }},
		}},
	}
}

// shop makes the application of the pages: a Deployment, not labelled yet. It
// has the token volume, which the node has no webhook to add.
func shop(t *testing.T) {
	t.Helper()
	d := deployment(pod{namespace: shopName, name: checkout, account: checkout, token: newVolume})
	d.Spec.Template.Annotations = map[string]string{"azure.workload.identity/inject-proxy-sidecar": "true"}
	apply(t, namespace(shopName, "restricted"), account(shopName, checkout, nil), account(shopName, "cart", nil), d)
	kubectl(t, "-n", shopName, "rollout", "status", "deployment/"+checkout, "--timeout=60s")
}

// leave removes what a page added to the cluster.
func leave(t *testing.T) {
	t.Helper()
	const tokenRequest = "sidestep-agent-token-request"
	kubectl(t, "delete", "namespace", shopName, "--ignore-not-found")
	kubectl(t, "delete", "--ignore-not-found", "clusterrolebinding/"+tokenRequest, "clusterrole/"+tokenRequest,
		"validatingadmissionpolicybinding/"+tokenRequest, "validatingadmissionpolicy/"+tokenRequest)
	removePermission(t)
	kubectl(t, "-n", system, "delete", "--ignore-not-found", "job/sidestep-check", "secret/registry-login")
	kubectl(t, "label", "node", nodeName(t), "sidestep.dev/canary-")
	install(t, "base")
}

func isReady(t *testing.T, _ string) { t.Helper(); rolledOut(t) }

// forgetSettings removes those that the rig installed the agent with.
func forgetSettings(t *testing.T) {
	t.Helper()
	kubectl(t, "-n", system, "delete", "configmap", "sidestep-agent-env", "--ignore-not-found")
}

// trustEntra adds the settings that no cluster in Azure needs: Entra's
// certificate is of the cluster's authority here, and an agent that is removed
// ends soon.
func trustEntra(t *testing.T, _ string) {
	t.Helper()
	kubectl(t, "-n", system, "patch", "configmap", "sidestep-agent-env", "--type=merge",
		"--patch", `{"data":{"SSL_CERT_FILE":"/var/run/secrets/kubernetes.io/serviceaccount/ca.crt","SIDESTEP_DRAIN_TIMEOUT":"2s"}}`)
	rolledOut(t) // kubectl restarts nothing twice in a second
	kubectl(t, "-n", system, "rollout", "restart", "daemonset/sidestep-agent")
	rolledOut(t)
}

// usesTheVault has the application ask for a token and use it: it is app-one.
func usesTheVault(t *testing.T) {
	t.Helper()
	one := identity("app-one")
	kubectl(t, "-n", shopName, "annotate", "--overwrite", "serviceaccount", checkout, annotationClient+"="+one.ClientID)
	kubectl(t, "-n", shopName, "patch", "deployment", checkout, "--type=merge",
		"--patch", `{"spec":{"template":{"metadata":{"labels":{"`+labelUse+`":"true"}}}}}`)
	kubectl(t, "-n", shopName, "rollout", "status", "deployment/"+checkout, "--timeout=60s")
	if got := useVault(t, shopName, "deployment/"+checkout); named(got.ObjectID) != one.Name || got.Vault != "ok" {
		t.Errorf("%s is %s: %+v", checkout, named(got.ObjectID), got)
	}
}

func isWhole(t *testing.T, explained string) {
	t.Helper()
	if strings.Contains(explained, "BROKEN") || !strings.Contains(explained, "steered: label") {
		t.Errorf("explain says:\n%s", explained)
	}
}

func saysUninstalled(t *testing.T, printed string) {
	t.Helper()
	if !strings.Contains(printed, "nothing of the agent is left") {
		t.Errorf("it does not say that nothing is left:\n%s", printed)
	}
}

// installAnew has the rig install the agent again, as it did at first.
func installAnew(t *testing.T) {
	t.Helper()
	if err := script("install.sh"); err != nil {
		t.Fatal(err)
	}
}

// takeOff removes what kustomize installed: Helm does not take objects over.
func takeOff(t *testing.T) {
	t.Helper()
	base := manifest(t, "base")
	kubectl(t, "delete", "-k", base, "--ignore-not-found", "--wait=false")
	killAgent(t) // which goes on serving for two minutes, as others' pods are steered
	kubectl(t, "delete", "-k", base, "--ignore-not-found")
}

func (d desk) helmUninstall(t *testing.T) {
	t.Helper()
	inNode(t, "HOME="+d.work, filepath.Join(d.bin, "helm"), "uninstall", "sidestep-agent", "--namespace", "kube-system")
	// It would go on serving for two minutes, as others' pods are steered.
	killAgent(t)
	kubectl(t, "delete", "namespace", system, "--ignore-not-found")
}

func isCanary(t *testing.T) {
	t.Helper()
	kubectl(t, "label", "node", nodeName(t), "sidestep.dev/canary=true")
}

func listsSidecars(t *testing.T, printed string) {
	t.Helper()
	if !regexp.MustCompile(`(?m)^shop +checkout-\S+ +checkout +<none> +true$`).MatchString(printed) {
		t.Errorf("the pod with a sidecar is not listed:\n%s", printed)
	}
}

func hasNoSidecar(t *testing.T, _ string) {
	t.Helper()
	if left := kubectl(t, "-n", shopName, "get", "deployment", checkout, "-o", "jsonpath={.spec.template.metadata.annotations}"); left != "" {
		t.Errorf("annotations: %s", left)
	}
}

// podIdentity gives the cluster what aad-pod-identity's has, and Azure, by the
// objects that the page has as its example.
func (d desk) podIdentity(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"AzureIdentity", "AzureIdentityBinding", "AzurePodIdentityException"} {
		addKind(t, exceptionGroup, "v1", kind)
	}
	text, err := os.ReadFile(filepath.Join(repository, "docs/migrate-from-pod-identity.md"))
	if err != nil {
		t.Fatal(err)
	}
	example := func(name string) []byte {
		found := regexp.MustCompile("(?s)<!-- example: " + name + " -->\n```\\w+\n(.*?)```").FindSubmatch(text)
		if found == nil {
			t.Fatalf("the page has no example of %s", name)
		}
		return found[1]
	}
	if _, err := tryInNode(example("objects.yaml"), "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.folder, "identities"), example("identities.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, pod{namespace: shopName, name: "cart", account: "cart", labels: map[string]string{"aadpodidbinding": "cart"}})
}

func prometheusKinds(t *testing.T) {
	t.Helper()
	addKind(t, "monitoring.coreos.com", "v1", "PodMonitor")
	addKind(t, "monitoring.coreos.com", "v1", "PrometheusRule")
}

// addKind makes a kind whose objects may have any fields, for the test's time.
func addKind(t *testing.T, group, version, kind string) {
	t.Helper()
	singular := strings.ToLower(kind)
	plural := strings.TrimSuffix(singular, "y") + "s"
	if strings.HasSuffix(singular, "y") {
		plural = strings.TrimSuffix(singular, "y") + "ies"
	}
	name := "crd/" + plural + "." + group
	apply(t, map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{
			"name":        plural + "." + group,
			"annotations": map[string]any{"api-approved.kubernetes.io": "unapproved, a test"},
		},
		"spec": map[string]any{
			"group": group, "scope": "Namespaced",
			"names": map[string]any{"kind": kind, "plural": plural, "singular": singular},
			"versions": []any{map[string]any{
				"name": version, "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{
					"type": "object", "x-kubernetes-preserve-unknown-fields": true,
				}},
			}},
		},
	})
	t.Cleanup(func() { kubectl(t, "delete", name, "--timeout=30s") })
	kubectl(t, "wait", "--for=condition=Established", name, "--timeout=30s")
}

func hasUnits(t *testing.T) {
	t.Helper()
	inNode(t, "mkdir", "-p", "/etc/systemd/system") // the rig's machine may have no systemd
}

func startWeb(t *testing.T) {
	t.Helper()
	start(t, pod{namespace: shopName, name: "web", account: checkout, labelled: true, token: newVolume})
}

// crashAgent ends the agent's process; its container starts again.
func crashAgent(t *testing.T) {
	t.Helper()
	name := killAgent(t)
	eventually(t, 60*time.Second, func() error {
		_, err := tryInNode(nil, "kubectl", "-n", system, "logs", name, "--previous")
		return err
	})
	rolledOut(t)
}

// killAgent kills the agent's process, and returns the name of its pod.
func killAgent(t *testing.T) string {
	t.Helper()
	name := strings.TrimSpace(kubectl(t, "-n", system, "get", "pods", "-l", agentPods, "-o", "jsonpath={.items[0].metadata.name}"))
	agent := pod{namespace: system, name: name}
	for _, pid := range agent.processes(t, "/agent") {
		inNode(t, "kill", "-s", "KILL", pid)
	}
	return name
}

// unpin removes the pin of a program's link, and waits until the agent has seen
// it.
func unpin(t *testing.T) {
	t.Helper()
	eventually(t, 60*time.Second, func() error {
		// Not before the agent that was started again has pinned it.
		_, err := tryInNode(nil, "rm", "/sys/fs/bpf/sidestep/link_connect4")
		return err
	})
	eventually(t, 60*time.Second, func() error {
		if !strings.Contains(kubectl(t, "-n", system, "logs", "daemonset/sidestep-agent"), "put back") {
			return errors.New("the agent does not say that it put anything back")
		}
		return nil
	})
}

// removeBootGuard takes it off the node, as its kustomization says.
func removeBootGuard(t *testing.T) {
	t.Helper()
	install(t, "base")
	kubectl(t, "apply", "-k", manifest(t, "uninstall-boot-guard"))
	kubectl(t, "-n", system, "rollout", "status", "daemonset/sidestep-uninstall-boot-guard", "--timeout=60s")
	kubectl(t, "delete", "-k", manifest(t, "uninstall-boot-guard"))
}
