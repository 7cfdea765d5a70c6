package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func rows(s *scenario, colour bool) string {
	var b bytes.Buffer
	p := &page{out: &b, colour: colour}
	p.header()
	for _, a := range s.results {
		p.row(a.row(namesOf(s.file)))
	}
	return b.String()
}

func TestTable(t *testing.T) {
	s := goodScenario(t)
	s.question(s.pods.one, azidentity).answer.vault = vaultOK
	s.question(s.pods.unlabelled, azidentity).logs.kernel[0].Count = 2
	s.question(s.pods.two, azidentity).answer.vault = "AccessDenied"
	lines := strings.Split(rows(s, false), "\n")
	want := map[int]string{
		0:  "POD              KIND                       CLIENT          SOCKET       DESTINATION            IDENTITY    MS     RESULT",
		1:  "team-a/web       labelled                   azidentity      IPv4         its broker             app-one     0      the vault: a secret set, read, deleted",
		2:  "team-a/web       labelled                   curl            IPv6-mapped  its broker             app-one     0      a token",
		3:  "team-b/report    labelled                   azidentity      IPv4         its broker             app-two     0      the vault: AccessDenied",
		7:  "team-c/legacy    unlabelled: pass           azidentity      IPv4         the node's IMDS ×2     the node's  0      a token",
		11: "team-c/legacy    unlabelled: metadata-only  curl, metadata  IPv4         its broker             none        0      this VM is aks-pool-00000000-vmss000000",
		13: "team-c/legacy    unlabelled: deny           curl            IPv6-mapped  nowhere (denied)       none        0      Operation not permitted",
		14: "team-a/web       labelled                   azidentity      IPv4         nowhere (refused)      none        0      Operation not permitted",
		17: "kube-system/csi  exempt                     curl            IPv4         the node's IMDS        the node's  0      a token",
	}
	for i, line := range want {
		if diff := cmp.Diff(line, lines[i]); diff != "" {
			t.Errorf("line %d: %s", i, diff)
		}
	}
}

func TestVerdictThatDidNotComeTrue(t *testing.T) {
	s := goodScenario(t)
	a := s.question(s.pods.one, curlToken)
	a.logs.imds = s.question(s.pods.exempt, curlToken).logs.imds
	a.logs.imds[0].Remote = a.by.Pod.Address.String() + ":5"
	if got := a.route(); got != (cell{"its broker (actually the node's IMDS)", red}) {
		t.Errorf("route %+v", got)
	}
}

func TestColourIsAllThatATerminalGets(t *testing.T) {
	s := goodScenario(t)
	coloured := rows(s, true)
	if !strings.Contains(coloured, string(green)+"app-one"+end) {
		t.Error("there is no colour")
	}
	for _, sequence := range []string{string(red), string(green), string(yellow), string(bold), end} {
		coloured = strings.ReplaceAll(coloured, sequence, "")
	}
	if diff := cmp.Diff(rows(s, false), coloured); diff != "" {
		t.Error(diff)
	}
}

func TestTotals(t *testing.T) {
	tests := []struct {
		name   string
		checks []check
		want   string
		failed int
	}{
		{"all well", []check{{text: "a"}, {text: "b"}}, "ok   a\nok   b\n\ndemo: 2 checks passed, 0 failed\n", 0},
		{"one wrong", []check{{text: "a"}, {text: "b", why: "no b"}}, "ok   a\nFAIL b: no b\n\nthe log\n\ndemo: 1 checks passed, 1 failed\n", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			p := &page{out: &b}
			if failed := p.checks(tt.checks, "the log\n"); failed != tt.failed {
				t.Errorf("%d failed, want %d", failed, tt.failed)
			}
			if diff := cmp.Diff(tt.want, b.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
