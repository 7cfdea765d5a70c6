package workload

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestTokenIsPrintedWithoutItsValue(t *testing.T) {
	token := Token{Value: "the secret", ClientID: "client"}
	var said strings.Builder
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&said, nil)), slog.New(slog.NewJSONHandler(&said, nil))} {
		log.Info("issued", "token", token)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&said, verb+"\n", token)
		fmt.Fprintf(&said, verb+"\n", &token)
		fmt.Fprintf(&said, verb+"\n", struct{ Inner Token }{token})
	}
	if strings.Contains(said.String(), "secret") || strings.Contains(said.String(), fmt.Sprintf("%x", "the secret")) {
		t.Errorf("the value shows in:\n%s", &said)
	}
	if n := strings.Count(said.String(), "client"); n < 21 {
		t.Errorf("the client is named %d times only", n)
	}
}
