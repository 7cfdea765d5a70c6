package e2e

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

const (
	imds      = "http://169.254.169.254"
	tokenPath = imds + "/metadata/identity/oauth2/token?api-version=2018-02-01&resource="
	vaultHost = "tutorial.vault.azure.net"
	vaultURL  = "https://vault.azure.net" // the resource, not the vault
)

// Answers that a pod may get, as the reporter of each.
const (
	nodes    = "the node's identity"
	refused  = "EPERM"
	notFound = "400 Identity not found"
)

// answer is what probe get prints.
type answer struct {
	Status     int    `json:"status"`
	RetryAfter string `json:"retryAfter"`
	Body       string `json:"body"`
	Error      string `json:"error"`
	MS         int64  `json:"ms"`
}

// tryGet lets the pod ask with probe.
func (p pod) tryGet(args ...string) (answer, error) {
	return p.tryProbe(append([]string{"get"}, args...)...)
}

// tryProbe runs probe in the pod and returns the answer that it prints.
func (p pod) tryProbe(args ...string) (answer, error) {
	command := []string{"kubectl", "-n", p.namespace, "exec", p.name, "-c", cmp.Or(p.container, "app"), "--", "/probe"}
	if p.process != "" {
		command = []string{"bash", "-euc", `
			echo 0 >"/sys/fs/cgroup$(sed -n s/^0:://p "/proc/$0/cgroup")/cgroup.procs"
			exec nsenter --target "$0" --all --wd=/ "$@"`, p.process, "/probe"}
	}
	out, err := tryInNode(nil, append(command, args...)...)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		return answer{}, fmt.Errorf("%w in %q", err, out)
	}
	return a, nil
}

func (p pod) get(t *testing.T, args ...string) answer {
	t.Helper()
	a, err := p.tryGet(args...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// who asks for a token in the pod and says in a few words whose it got, or
// what it got instead.
func (p pod) who(t *testing.T, flags ...string) string {
	t.Helper()
	return p.get(t, append(flags, tokenPath+url.QueryEscape(vaultURL))...).whose()
}

// elsewhere is who by a process that probe first moves: "join", FILE or
// "below", NAME.
func (p pod) elsewhere(t *testing.T, move ...string) string {
	t.Helper()
	a, err := p.tryProbe(append(move, "get", tokenPath+url.QueryEscape(vaultURL))...)
	if err != nil {
		t.Fatal(err)
	}
	return a.whose()
}

// becomes waits until who returns want.
func (p pod) becomes(t *testing.T, want string) time.Duration {
	t.Helper()
	return eventually(t, 20*time.Second, func() error {
		if got := p.who(t); got != want {
			return fmt.Errorf("%s/%s gets %q, want %q", p.namespace, p.name, got, want)
		}
		return nil
	})
}

func (a answer) whose() string {
	switch {
	case strings.Contains(a.Error, "operation not permitted"):
		return refused
	case a.Error != "":
		return a.Error
	case a.Status != 200:
		var said struct {
			Description string `json:"error_description"`
		}
		_ = json.Unmarshal([]byte(a.Body), &said)
		if strings.HasPrefix(said.Description, "Identity not found") {
			said.Description = "Identity not found"
		}
		return fmt.Sprintf("%d %s", a.Status, said.Description)
	}
	var token struct {
		AccessToken string `json:"access_token"`
	}
	_ = json.Unmarshal([]byte(a.Body), &token)
	return owner(token.AccessToken)
}

// owner names the identity that the token is of.
func owner(token string) string {
	var claims struct {
		ObjectID string `json:"oid"`
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "no token"
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err != nil {
		return "no token: " + err.Error()
	}
	return named(claims.ObjectID)
}

func named(objectID string) string {
	if objectID == known.NodeIdentity.PrincipalID {
		return nodes
	}
	for _, i := range known.Identities {
		if i.PrincipalID == objectID {
			return i.Name
		}
	}
	return "nobody known: " + objectID
}

// used is what vaultclient prints.
type used struct {
	ObjectID string `json:"oid"`
	Vault    string `json:"vault"`
	TokenMS  int64  `json:"token_ms"`
	Error    string `json:"error"`
}

// useVault lets the pod, or "deployment/name", get a token with azidentity and
// use it with azsecrets.
func useVault(t *testing.T, namespace, where string) used {
	t.Helper()
	// It exits with 1 where the vault refuses; what it prints says so too.
	out, err := tryInNode(nil, "kubectl", "-n", namespace, "exec", where, "--",
		"/vaultclient", "-vault", "https://"+vaultHost, "-secret", "e2e")
	var u used
	if json.Unmarshal([]byte(out), &u) != nil {
		t.Fatalf("vaultclient in %s/%s: %v", namespace, where, err)
	}
	return u
}
