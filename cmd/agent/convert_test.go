package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/pkg/convert"
)

const migrationDoc = "../../docs/migrate-from-pod-identity.md"

// What the pages on moving tell to apply is there, and the patches that they
// give to kubectl are JSON.
func TestMigrationPagesNameWhatIsThere(t *testing.T) {
	for _, name := range []string{migrationDoc, "../../docs/migrate-from-sidecar.md"} {
		page, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		paths := regexp.MustCompile(`manifests/[a-z/-]+[a-z](\.yaml)?`).FindAllString(string(page), -1)
		for _, path := range paths {
			if _, err := os.Stat(filepath.Join("../..", path)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		patches := regexp.MustCompile(`--patch '([^']*)'`).FindAllStringSubmatch(string(page), -1)
		for _, patch := range patches {
			if !json.Valid([]byte(patch[1])) {
				t.Errorf("%s: not JSON: %s", name, patch[1])
			}
		}
		if len(paths) < 4 || len(patches) == 0 {
			t.Errorf("%s: found %d paths and %d patches", name, len(paths), len(patches))
		}
	}
}

// The example of the docs is what the command prints, to the letter.
func TestDocumentedConversion(t *testing.T) {
	blocks := exampleBlocks(t)
	folder := t.TempDir()
	for _, name := range []string{"objects.yaml", "pods.yaml", "identities.json"} {
		if blocks[name] == "" {
			t.Fatalf("the page has no %s", name)
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(blocks[name]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(folder)
	stdout, stderr, err := runConvert("", strings.Fields(strings.NewReplacer("\\\n", "").Replace(blocks["command"]))[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(blocks["stdout"], stdout); diff != "" {
		t.Errorf("standard output (-docs +command):\n%s", diff)
	}
	if diff := cmp.Diff(blocks["stderr"], stderr); diff != "" {
		t.Errorf("standard error (-docs +command):\n%s", diff)
	}
}

func TestConvertReadsStandardInput(t *testing.T) {
	objects := exampleBlocks(t)["objects.yaml"]
	stdout, stderr, err := runConvert(objects, "convert", "-f", "-", "--issuer", "https://oidc.example/", "--print", "accounts")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stdout, "kind: ServiceAccount") || strings.Contains(stdout, "kind: AgentConfiguration") {
		t.Errorf("not the service accounts alone:\n%s", stdout)
	}
	if !strings.Contains(stderr, "warning: regions were not checked") {
		t.Errorf("no warning: %q", stderr)
	}
}

func TestConvertRefuses(t *testing.T) {
	for name, args := range map[string][]string{
		"no issuer":           {"convert", "-f", "-"},
		"no file":             {"convert", "--issuer", "https://oidc.example/"},
		"a file that is not":  {"convert", "-f", filepath.Join(t.TempDir(), "none"), "--issuer", "https://oidc.example/"},
		"another part":        {"convert", "-f", "-", "--issuer", "https://oidc.example/", "--print", "everything"},
		"an issuer over http": {"convert", "-f", "-", "--issuer", "http://oidc.example/"},
	} {
		if stdout, _, err := runConvert("", args...); err == nil || stdout != "" {
			t.Errorf("%s: error %v, printed %q", name, err, stdout)
		}
	}
}

// Where a plan would give one workload the identity of another, there is none.
func TestConvertPrintsNothingOfARefusedPlan(t *testing.T) {
	const objects = `
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: cart, namespace: shop}
spec: {type: 1, clientID: 11111111-1111-1111-1111-111111111111}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentity
metadata: {name: mail, namespace: shop}
spec: {type: 1, clientID: 22222222-2222-2222-2222-222222222222}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: cart, namespace: shop}
spec: {azureIdentity: cart, selector: cart}
---
apiVersion: aadpodidentity.k8s.io/v1
kind: AzureIdentityBinding
metadata: {name: mail, namespace: shop}
spec: {azureIdentity: mail, selector: mail}
---
apiVersion: v1
kind: Pod
metadata: {name: cart, namespace: shop, labels: {aadpodidbinding: cart}}
---
apiVersion: v1
kind: Pod
metadata: {name: mail, namespace: shop, labels: {aadpodidbinding: mail}}
`
	for _, part := range convert.Parts {
		stdout, _, err := runConvert(objects, "convert", "-f", "-", "--issuer", "https://oidc.example/", "--print", part)
		if !errors.Is(err, convert.ErrSharedAccount) || stdout != "" {
			t.Errorf("%s: error %v, printed %q", part, err, stdout)
		}
	}
}

func runConvert(stdin string, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd := newCommand(environment{stdout: &out, stderr: &errs, getenv: func(string) string { return "" }})
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(args)
	err = cmd.Execute()
	return out.String(), errs.String(), err
}

// exampleBlocks returns the fenced blocks of the page that follow a comment
// <!-- example: NAME -->, by name.
func exampleBlocks(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile(migrationDoc)
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string]string{}
	for _, part := range strings.Split(string(page), "<!-- example: ")[1:] {
		name, rest, _ := strings.Cut(part, " -->\n")
		_, rest, _ = strings.Cut(rest, "```")
		_, rest, _ = strings.Cut(rest, "\n")
		block, _, closed := strings.Cut(rest, "```\n")
		if !closed {
			t.Fatalf("%s: the block has no end", name)
		}
		blocks[name] = block
	}
	return blocks
}
