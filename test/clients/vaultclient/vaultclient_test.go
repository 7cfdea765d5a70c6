package main

import (
	"bytes"
	"strings"
	"testing"
)

// The tests call the checks and never run: should a check fail to refuse, run
// would send to 169.254.169.254.

func TestFlagsThatAreRefused(t *testing.T) {
	good := []string{"-vault", "https://vault.test", "-secret", "s"}
	tests := []struct {
		name string
		args []string
		want string // in the message; empty: none
	}{
		{"good", good, ""},
		{"token only", []string{"-token-only"}, ""},
		{"nothing", nil, "-vault and -secret"},
		{"no secret", good[:2], "-vault and -secret"},
		{"unknown operation", append(good[:4:4], "-op", "wipe"), `"wipe"`},
		{"two identities", append(good[:4:4], "-client-id", "a", "-resource-id", "b"), "exclude"},
		{"no time", append(good[:4:4], "-timeout", "0s"), "-timeout"},
		{"rest", append(good[:4:4], "more"), `"more"`},
		{"unknown flag", []string{"-token"}, "-token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(tt.args, &bytes.Buffer{})
			if tt.want == "" && err != nil {
				t.Fatal(err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestOtherRoadsAreClosed(t *testing.T) {
	if err := onlyIMDS(func(string) string { return "" }); err != nil {
		t.Fatalf("with no variable set: %v", err)
	}
	for _, name := range otherRoads {
		err := onlyIMDS(func(asked string) string {
			if asked == name {
				return "x"
			}
			return ""
		})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is set: error %v", name, err)
		}
	}
}

func TestFlagsReachTheSDK(t *testing.T) {
	c, err := parse([]string{"-token-only", "-resource-id", "/subscriptions/s"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.clientOptions().Retry.MaxRetries; got != -1 {
		t.Errorf("the SDK's retries %d, want -1: none", got)
	}
	if got := c.identity().String(); got != "/subscriptions/s" {
		t.Errorf("identity %q", got)
	}
}

func TestClaims(t *testing.T) {
	var r result
	// {"oid":"o","appid":"a","tid":"t"}
	if err := r.claims("e30.eyJvaWQiOiJvIiwiYXBwaWQiOiJhIiwidGlkIjoidCJ9.c2ln"); err != nil {
		t.Fatal(err)
	}
	if r != (result{ObjectID: "o", AppID: "a", TenantID: "t"}) {
		t.Errorf("claims %+v", r)
	}
	for _, token := range []string{"", "secret", "a.b", "e30.!.c2ln", "e30.MQ.c2ln"} {
		err := r.claims(token)
		if err == nil {
			t.Errorf("%q was taken for a token", token)
		} else if token != "" && strings.Contains(err.Error(), token) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}
