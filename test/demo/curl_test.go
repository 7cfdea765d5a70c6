package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bearer is an unsigned token with nothing but the object id "o-1" in it:
// jwks.Payload wants three parts and an RS256 header.
const bearer = "eyJhbGciOiJSUzI1NiJ9.eyJvaWQiOiJvLTEifQ.AA"

func TestParseCurl(t *testing.T) {
	tests := []struct {
		name, stdout string
		want         answer
	}{
		{
			"token", `{"access_token":"` + bearer + `","client_id":"c"}` + "\n200 169.254.169.254",
			answer{objectID: "o-1", token: bearer, status: 200, peer: "169.254.169.254",
				body: `{"access_token":"` + bearer + `","client_id":"c"}`},
		},
		{
			"refusal over a mapped socket", `{"error":"invalid_request","error_description":"Identity not found"}` + "\n400 ::ffff:169.254.169.254",
			answer{status: 400, peer: "169.254.169.254", refusal: "400 Identity not found",
				body: `{"error":"invalid_request","error_description":"Identity not found"}`},
		},
		{"text", "vm-1\n200 169.254.169.254", answer{status: 200, peer: "169.254.169.254", body: "vm-1"}},
		{"empty body", "\n200 169.254.169.254", answer{status: 200, peer: "169.254.169.254"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseCurl([]byte(tt.stdout))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(answer{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, stdout := range []string{"", "nonsense", "body\nnot-a-status 1.2.3.4", `{"access_token":"no jwt"}` + "\n200 1.2.3.4"} {
		if got, err := parseCurl([]byte(stdout)); err == nil {
			t.Errorf("%q was taken for %+v", stdout, got)
		}
	}
}

func TestCurlFailure(t *testing.T) {
	tests := []struct{ name, stderr, want string }{
		{"EPERM", "*   Trying 169.254.169.254:80...\n* Immediate connect fail for 169.254.169.254: Operation not permitted\n* Closing connection 0\ncurl: (7) Couldn't connect to server\n", "Operation not permitted"},
		{"ECONNREFUSED", "*   Trying [::ffff:169.254.169.254]:80...\n* connect to ::ffff:169.254.169.254 port 80 failed: Connection refused\n", "Connection refused"},
		{"another curl's words", "* connect to 169.254.169.254 port 80 from 10.64.0.2 port 5 failed: Connection refused\n", "Connection refused"},
		{"no connect", "curl: (28) Operation timed out\n", "curl: (28) Operation timed out"},
		{"nothing", "", ""},
	}
	for _, tt := range tests {
		if got := curlFailure([]byte(tt.stderr)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
