package status

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func report() Report {
	start := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	return Report{
		Version: "v0.1.0", Node: "aks-pool-0", Since: start, Mode: "enforce", Delivery: "pod", Guard: "full", Ready: true,
		StaleSince: start.Add(-time.Hour),
		Pods: []Pod{
			{
				Namespace: "shop", Name: "checkout-7d9c", UID: "1b3c1f6e-8d5a-4b0e-9c57-2f6a7d8e9f01", ServiceAccount: "checkout",
				ClientID: "11111111-1111-1111-1111-111111111111",
				Verdict:  "steer", Access: "identity", Reason: "label", Listener: 28000, CgroupID: 4711,
			},
			{
				Namespace: "kube-system", Name: "omsagent-x", UID: "2b3c1f6e-8d5a-4b0e-9c57-2f6a7d8e9f02",
				ServiceAccount: "omsagent", Verdict: "pass", Reason: "exception 1", CgroupID: 4712,
			},
			{
				Namespace: "shop", Name: "batch-1", UID: "3b3c1f6e-8d5a-4b0e-9c57-2f6a7d8e9f03",
				ServiceAccount: "default", Verdict: "steer", Access: "metadata-only", Reason: "unlabeled: metadata-only", Listener: 28001,
			},
		},
		ServiceAccounts: []ServiceAccount{
			{
				Namespace: "shop", Name: "checkout", ClientID: "11111111-1111-1111-1111-111111111111",
				TenantID:     "22222222-2222-2222-2222-222222222222",
				LastExchange: start.Add(time.Minute), ExpiresOn: start.Add(time.Hour),
			},
			{Namespace: "shop", Name: "default", LastError: "AADSTS70021: no matching\nfederated \x1b[31mcredential",
				Fix: "az identity federated-credential create --name 'shop\x1b[31m'"},
		},
		Counters: map[string]uint64{"steer": 12, "pass": 3, "deny": 0},
		Problems: []string{"guard: full cannot be attached, socket is: no NET_ADMIN"},
	}
}

// A boot guard has a line of its own, where there is one.
func TestPrintBootGuard(t *testing.T) {
	r := report()
	for _, says := range []string{"", "held at this boot"} {
		r.BootGuard = says
		var got bytes.Buffer
		if err := Print(&got, r, "table"); err != nil {
			t.Fatal(err)
		}
		if line := "\nboot guard: held at this boot\n"; strings.Contains(got.String(), "boot guard") != (says != "") ||
			says != "" && !strings.Contains(got.String(), line) {
			t.Errorf("%q: printed\n%s", says, &got)
		}
	}
}

func TestPrint(t *testing.T) {
	for _, format := range Formats {
		t.Run(format, func(t *testing.T) {
			var got bytes.Buffer
			if err := Print(&got, report(), format); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", format+".golden")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrintedReportCanBeReadBack(t *testing.T) {
	for format, read := range map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(b []byte, v any) error { return yaml.UnmarshalStrict(b, v) },
	} {
		var out bytes.Buffer
		if err := Print(&out, report(), format); err != nil {
			t.Fatal(err)
		}
		var got Report
		if err := read(out.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if diff := cmp.Diff(report(), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
	}
}

func TestPrintOfAnEmptyNode(t *testing.T) {
	for _, format := range Formats {
		var out bytes.Buffer
		if err := Print(&out, Report{}, format); err != nil || out.Len() == 0 {
			t.Errorf("%s: %d bytes, %v", format, out.Len(), err)
		}
	}
}

func TestPrintUnknownFormat(t *testing.T) {
	err := Print(&bytes.Buffer{}, Report{}, "xml")
	if err == nil || !strings.Contains(err.Error(), "table, wide, json, yaml") {
		t.Errorf("Print = %v, want an error that lists the formats", err)
	}
}
