package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// configCheck runs `agent config check` in an environment and returns what it
// printed, and whether it found mistakes.
func configCheck(t *testing.T, environ []string, args ...string) (out string, mistakes bool) {
	t.Helper()
	var b bytes.Buffer
	getenv := func(name string) string {
		for _, v := range environ {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return ""
	}
	cmd := newCommand(environment{stdout: &b, stderr: &b, getenv: getenv, environ: func() []string { return environ }})
	cmd.SetArgs(append([]string{"config", "check"}, args...))
	err := cmd.Execute()
	if err != nil && !errors.Is(err, errSilent) {
		t.Fatal(err)
	}
	return b.String(), err != nil
}

func TestConfigCheckNamesEachMistake(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	for text, want := range map[string][]string{
		"mode: audit\n":                 {"no mistakes\n"},
		"mode: auditt\nunlabelled: x\n": {"line 3: mode: \"auditt\" is not a value", "line 4: unknown field \"unlabelled\": did you mean \"unlabeled\"?"},
	} {
		text = "apiVersion: sidestep.dev/v1alpha1\nkind: AgentConfiguration\n" + text
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, mistakes := configCheck(t, nil, file)
		if mistakes != (len(want) > 1) {
			t.Errorf("%s: mistakes %v", text, mistakes)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("printed\n%s\nwant %s", out, w)
			}
		}
	}
	if out, mistakes := configCheck(t, nil, file+"x"); !mistakes || !strings.Contains(out, "no such file") {
		t.Errorf("without a file: %v, %s", mistakes, out)
	}
}

func TestConfigCheckOfTheEnvironment(t *testing.T) {
	good := []string{"PATH=/bin", "SIDESTEP_TENANT_ID=t", "SIDESTEP_READY=false", "SIDESTEPS=x"}
	if out, mistakes := configCheck(t, good, "--env"); mistakes {
		t.Errorf("a good environment: %s", out)
	}
	for variable, want := range map[string]string{
		"SIDESTEP_TENANT=t":                       "did you mean SIDESTEP_TENANT_ID (--tenant-id)?",
		"SIDESTEP_GURD=off":                       "did you mean SIDESTEP_GUARD (--guard)?",
		"SIDESTEP_OPERATOR_SERVICE_HOST=10.0.0.1": "remove it",
		"SIDESTEP_GUARD=some":                     "SIDESTEP_GUARD: invalid argument",
	} {
		if out, mistakes := configCheck(t, append(good, variable), "--env"); !mistakes || !strings.Contains(out, want) {
			t.Errorf("%s: mistakes %v, printed %swant %s", variable, mistakes, out, want)
		}
	}
}

// A Service whose name begins with sidestep must not stop the agents.
func TestUnknownVariablesAreNoErrorAtTheStart(t *testing.T) {
	root := newCommand(environment{})
	got := unknownVariables(root, []string{"SIDESTEP_X_PORT=tcp://10.0.0.1:80", "SIDESTEP_NODE_NAME=n", "SIDESTEP_X_SERVICE_HOST=10.0.0.1"})
	if len(got) != 2 || got[0] != "SIDESTEP_X_PORT" {
		t.Errorf("unknown %v", got)
	}
	flags, _ := flagsOf(t)
	if err := fromEnvironment(flags, func(name string) string {
		if name == "SIDESTEP_X_PORT" {
			return "tcp://10.0.0.1:80"
		}
		return ""
	}); err != nil {
		t.Error(err)
	}
}

func TestConfigMapNames(t *testing.T) {
	var n configMapName
	if err := n.Set("sidestep-system/sidestep-agent-config"); err != nil || n.Namespace != "sidestep-system" || n.String() != "sidestep-system/sidestep-agent-config" {
		t.Errorf("%+v, %v", n, err)
	}
	for _, bad := range []string{"", "sidestep-agent-config", "/name", "ns/", "a/b/c"} {
		if n.Set(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
