package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidestep-agent/sidestep/test/scene"
)

func TestAuditLinesOfAnAgentThatIsStillWriting(t *testing.T) {
	var r scene.Record
	for _, part := range []string{
		`{"msg":"agent starts"}` + "\n",
		`{"event":"imds_request","namespace":"n","service_account":"s","pod":"p","endpoint":"token","status":200,"client_id":"c","duration_ms":3}` + "\n",
		"panic: not JSON\n",
		`{"event":"token_issued","namesp`,
	} {
		if _, err := r.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	want := []auditLine{{Event: "imds_request", Namespace: "n", ServiceAccount: "s", Pod: "p", Endpoint: "token", Status: 200, ClientID: "c"}}
	if diff := cmp.Diff(want, auditLines(r.Whole())); diff != "" {
		t.Error(diff)
	}
}
