package broker

import (
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/workload"
)

// The answer is made once for all who ask for the token, and again for what
// changes.
func TestIssuedIsMadeOnce(t *testing.T) {
	token := workload.Token{
		Value: "v", Type: "Bearer", ClientID: "c",
		NotBefore: testNow, ExpiresOn: testNow.Add(time.Hour), Made: new(workload.Memo),
	}
	first := issuedAs(token, "r")
	if issuedAs(token, "r") != first {
		t.Error("made twice for the same token")
	}
	if first.at(testNow.Add(time.Second/10)) != first.at(testNow.Add(time.Second*9/10)) {
		t.Error("made twice within a second")
	}
	later := string(first.at(testNow.Add(1500 * time.Millisecond)).body)
	if !strings.Contains(later, `"expires_in":"3598"`) || !strings.Contains(later, `"ext_expires_in":"3598"`) {
		t.Errorf("1.5 s later: %s", later)
	}
	if ended := string(first.at(testNow.Add(2 * time.Hour)).body); !strings.Contains(ended, `"expires_in":"0"`) {
		t.Errorf("after its end: %s", ended)
	}
	if issuedAs(token, "other") == first {
		t.Error("not made again for another resource")
	}
	token.ExpiresOn = token.ExpiresOn.Add(time.Minute)
	if !strings.Contains(string(issuedAs(token, "other").at(testNow).body), `"expires_in":"3660"`) {
		t.Error("not made again when the clock was set")
	}
}
