package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/sidestep-agent/sidestep/cmd/agent/daemon"
)

// flagsOf returns the flags of `agent run` and what they are parsed into.
func flagsOf(t *testing.T) (*pflag.FlagSet, *runOptions) {
	t.Helper()
	o := &runOptions{}
	return runFlags(o), o
}

func TestEnvironmentGivesFlags(t *testing.T) {
	flags, o := flagsOf(t)
	if err := flags.Parse([]string{"--node-name=from-flag"}); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"SIDESTEP_NODE_NAME":  "from-environment",
		"SIDESTEP_TENANT_ID":  "tenant\r\n", // as az prints it on Windows
		"SIDESTEP_PORT_RANGE": "30000-30010",
		"SIDESTEP_LISTEN":     "127.0.0.5:1234",
		"SIDESTEP_DELIVERY":   "node",
	}
	if err := fromEnvironment(flags, func(name string) string { return env[name] }); err != nil {
		t.Fatal(err)
	}
	if o.NodeName != "from-flag" {
		t.Errorf("node name %q: the command line must win", o.NodeName)
	}
	if o.TenantID != "tenant" || o.Delivery != daemon.DeliveryNode {
		t.Errorf("tenant %q, delivery %q", o.TenantID, o.Delivery)
	}
	if o.Ports.First != 30000 || o.Ports.Last != 30010 {
		t.Errorf("ports %v", o.Ports)
	}
	if o.Listen != netip.MustParseAddrPort("127.0.0.5:1234") {
		t.Errorf("listen %v", o.Listen)
	}
}

func TestBadValuesNameTheVariableAndTheMend(t *testing.T) {
	for name, value := range map[string]string{
		"SIDESTEP_PORT_RANGE": "29999-28000",
		"SIDESTEP_LISTEN":     "[::1]:80",
		"SIDESTEP_DELIVERY":   "sidecar",
		"SIDESTEP_CLOUD":      "Azure",
		"SIDESTEP_LOG_LEVEL":  "loud",
	} {
		flags, _ := flagsOf(t)
		err := fromEnvironment(flags, func(n string) string {
			if n == name {
				return value
			}
			return ""
		})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: error %v, want one that names the variable", name, value, err)
		}
	}
}

func TestRunWantsTheNodesName(t *testing.T) {
	cmd := newCommand(environment{
		stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), getenv: func(string) string { return "" },
	})
	cmd.SetArgs([]string{"run"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "--node-name") {
		t.Errorf("error %v, want one that names the flag", err)
	}
}

func TestStatusTakesItsShorthands(t *testing.T) {
	var out bytes.Buffer
	cmd := newCommand(environment{stdout: &out, stderr: &out, getenv: func(string) string { return "" }})
	cmd.SetArgs([]string{"status", "-o", "json", "--state-dir", t.TempDir()})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "no agent answers") {
		t.Errorf("error %v, want one that says that no agent answers", err)
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	cmd := newCommand(environment{stdout: &out, stderr: &out, getenv: func(string) string { return "" }})
	cmd.SetArgs([]string{"version"})
	if err := cmd.Execute(); err != nil || out.String() != version+"\n" {
		t.Errorf("printed %q, %v", &out, err)
	}
}
