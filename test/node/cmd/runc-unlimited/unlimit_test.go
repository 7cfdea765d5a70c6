package main

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const bundled = `{"ociVersion":"1.0.2","linux":{"cgroupsPath":"/kubepods/x","resources":{
	"devices":[{"allow":false}],
	"memory":{"limit":9223372036854771712},
	"cpu":{"shares":2},
	"unified":{"memory.oom.group":"1","cpu.idle":"1"}}}}`

func TestUnlimit(t *testing.T) {
	tests := []struct {
		name        string
		config      string
		controllers []string
		want        string
	}{
		{"none", bundled, nil, `{"ociVersion":"1.0.2","linux":{"cgroupsPath":"/kubepods/x","resources":{
			"devices":[{"allow":false}], "unified":{}}}}`},
		{"some", bundled, []string{"cpu"}, `{"ociVersion":"1.0.2","linux":{"cgroupsPath":"/kubepods/x","resources":{
			"devices":[{"allow":false}], "cpu":{"shares":2}, "unified":{"cpu.idle":"1"}}}}`},
		{"all, to the last digit", bundled, []string{"cpu", "memory"}, bundled},
		{"no resources", `{"linux":{}}`, nil, `{"linux":{}}`},
		{"no linux", `{}`, nil, `{}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := unlimit([]byte(tt.config), tt.controllers)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(compact(t, []byte(tt.want)), compact(t, got)); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := unlimit([]byte(`{"linux":[]}`), nil); err == nil {
		t.Error("a configuration that is none was taken")
	}
}

// compact keeps numbers as they are written.
func compact(t *testing.T, raw []byte) string {
	t.Helper()
	var o map[string]json.RawMessage
	if err := json.Unmarshal(raw, &o); err != nil {
		return string(raw)
	}
	for name, member := range o {
		if len(member) > 0 && member[0] == '{' {
			o[name] = json.RawMessage(compact(t, member))
		}
	}
	sorted, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(sorted)
}
