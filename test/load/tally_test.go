package load

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
)

// What an answer says counts as what it is, by the token itself too.
func TestCheckAndJudge(t *testing.T) {
	key, err := jwks.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	answer := func(says, is string) string {
		token, err := key.Sign(accesstoken.New(accesstoken.Identity{ClientID: is}, "r", time.Now(), time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"client_id":%q,"access_token":%q}`, says, token)
	}
	for name, c := range map[string]struct {
		status int
		body   string
		want   Tally
	}{
		"the right token":    {200, answer("me", "me"), Tally{}},
		"another's":          {200, answer("other", "other"), Tally{Wrong: 1, Failures: []Failure{{Client: "other"}}}},
		"said to be another": {200, answer("other", "me"), Tally{Wrong: 1, Failures: []Failure{{Client: "other"}}}},
		"said to be right":   {200, answer("me", "other"), Tally{Wrong: 1, Failures: []Failure{{Client: "other"}}}},
		"without an owner":   {200, answer("", "me"), Tally{Wrong: 1, Failures: []Failure{{Client: "nobody"}}}},
		"no token":           {200, `{"client_id":"me"}`, Tally{Failed: 1, Failures: []Failure{{}}}},
		"try again":          {http.StatusTooManyRequests, "{}", Tally{Failed: 1, Failures: []Failure{{Status: 429}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := judge(check(c.status, []byte(c.body), "me"), time.Now())
			ignore := cmp.Options{cmpopts.IgnoreFields(Tally{}, "Notes"), cmpopts.IgnoreFields(Failure{}, "Alive", "At", "Note")}
			if diff := cmp.Diff(c.want, got, ignore); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestJudgeReset(t *testing.T) {
	got := judge(fmt.Errorf("receive: %w", syscall.ECONNRESET), time.Unix(7, 0))
	if got.Reset != 1 || got.Bad() != 1 || !got.Failures[0].Reset || !got.Failures[0].Alive.Equal(time.Unix(7, 0)) {
		t.Errorf("%+v", got)
	}
}
