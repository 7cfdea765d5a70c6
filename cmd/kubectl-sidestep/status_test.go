package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/sidestep-agent/sidestep/pkg/status"
)

func TestStatusOfNodes(t *testing.T) {
	s := newScene()
	s.agents = []string{"agent-0", "agent-1", "agent-2", "agent-3"}
	s.reports["agent-0"] = status.Report{Node: "node-1"} // is being replaced by agent-1
	s.reports["agent-2"] = status.Report{Version: "v1", Node: "node-2", Ready: true, Mode: "audit", Problems: []string{"a problem"},
		ServiceAccounts: []status.ServiceAccount{{LastError: "AADSTS1"}, {}}}
	var out bytes.Buffer
	s.reports["agent-3"] = status.Report{Version: "v1", Node: "node-3", Ready: true}
	if err := showNodes(t.Context(), s.cluster(), &out, "", "table"); err != nil {
		t.Error(err)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) < 6 || !strings.HasPrefix(lines[1], "node-1   agent-1   v1") || !strings.Contains(lines[2], "audit") ||
		!strings.HasSuffix(lines[2], "1") || !strings.HasPrefix(lines[3], "node-3") || lines[5] != "node-2: a problem" {
		t.Errorf("printed\n%s", &out)
	}

	s.reports["agent-3"] = status.Report{Node: "node-3", Ready: true,
		Configuration: status.Configuration{Origin: "kept", Refused: "line 3"}}
	if err := showNodes(t.Context(), s.cluster(), &bytes.Buffer{}, "", "table"); !errors.Is(err, errBroken) {
		t.Errorf("with an agent that refuses its configuration: %v", err)
	}
	s.reports["agent-3"] = status.Report{Node: "node-3"}
	out.Reset()
	if err := showNodes(t.Context(), s.cluster(), &out, "", "json"); !errors.Is(err, errBroken) {
		t.Errorf("with an agent that does not answer: %v", err)
	}
	var nodes []nodeStatus
	if err := json.Unmarshal(out.Bytes(), &nodes); err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 3 || nodes[2].Report != nil || nodes[2].Error == "" || nodes[0].Agent != "agent-1" {
		t.Errorf("%+v", nodes)
	}
}

func TestStatusOfNoNode(t *testing.T) {
	s := newScene()
	s.agents = nil
	if err := showNodes(t.Context(), s.cluster(), &bytes.Buffer{}, "", "table"); err == nil || !strings.Contains(err.Error(), "--agent-namespace") {
		t.Errorf("without agents: %v", err)
	}
	s.agents = []string{"agent-1"}
	if err := showNodes(t.Context(), s.cluster(), &bytes.Buffer{}, "", "xml"); !errors.Is(err, errFormat) {
		t.Errorf("xml: %v", err)
	}
}

func TestStatusOfPod(t *testing.T) {
	s := newScene()
	s.change(func(r *status.Report, _ *status.Pod, _ *status.ServiceAccount) {
		r.Pods = append(r.Pods, status.Pod{Namespace: "shop", Name: "other"})
	})
	var out bytes.Buffer
	if err := showPod(t.Context(), s.cluster(), &out, "shop", "web-1", "wide"); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "web-1") || strings.Contains(got, "other") || !strings.Contains(got, "28000") {
		t.Errorf("printed\n%s", got)
	}
	s.agents = nil
	if err := showPod(t.Context(), s.cluster(), &out, "shop", "web-1", "wide"); !errors.Is(err, errNoAgent) {
		t.Errorf("without an agent: %v", err)
	}
}
