package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strconv"
	"strings"

	"github.com/sidestep-agent/sidestep/test/standins/accesstoken"
	"github.com/sidestep-agent/sidestep/test/standins/jwks"
	"github.com/sidestep-agent/sidestep/test/standins/vault"
)

// family is how a client's socket dials the metadata service.
type family string

const (
	ipv4   family = "IPv4"
	mapped family = "IPv6-mapped" // an AF_INET6 socket, as Java's and .NET's
)

func (f family) host() string {
	if f == mapped {
		return "[::ffff:169.254.169.254]"
	}
	return "169.254.169.254"
}

// The metadata paths that curl asks for.
const (
	tokenPath    = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource="
	instancePath = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
)

// curl asks the metadata service with curl, once, for a token to the vault.
func (s *setup) curl(ctx context.Context, w *workload, f family) (answer, error) {
	return s.curlPath(ctx, w, f, tokenPath+url.QueryEscape(vault.Resource))
}

// curlPath asks for a path. A refused connect is an answer, no error.
func (s *setup) curlPath(ctx context.Context, w *workload, f family, path string) (answer, error) {
	cmd := exec.CommandContext(ctx, s.programs.curl,
		"--disable", "--noproxy", "*", "--globoff", "--verbose", "--no-progress-meter", "--max-time", "10",
		"--header", "Metadata: true", "--write-out", `\n%{http_code} %{remote_ip}`,
		"http://"+f.host()+path)
	stdout, stderr, err := s.runIn(w, cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return answer{refused: exit.ExitCode() == couldNotConnect, refusal: curlFailure(stderr)}, nil
	}
	if err != nil {
		return answer{}, err
	}
	return parseCurl(stdout)
}

// parseCurl reads the body and the line that --write-out put after it.
func parseCurl(stdout []byte) (answer, error) {
	end := max(bytes.LastIndexByte(stdout, '\n'), 0)
	code, peer, ok := strings.Cut(strings.TrimSpace(string(stdout[end:])), " ")
	status, err := strconv.Atoi(code)
	if err != nil || !ok {
		return answer{}, fmt.Errorf("curl printed %q", stdout)
	}
	a := answer{status: status, peer: strings.TrimPrefix(peer, "::ffff:"), body: string(stdout[:end])}
	var said struct {
		Token       string `json:"access_token"`
		Description string `json:"error_description"`
	}
	if json.Unmarshal([]byte(a.body), &said) != nil {
		return a, nil // instance metadata is text here
	}
	a.token = said.Token
	if status != 200 {
		a.refusal = fmt.Sprintf("%d %s", status, said.Description)
	}
	a.objectID, err = bearerOf(said.Token)
	return a, err
}

// bearerOf returns the object id in a token; none for no token.
func bearerOf(token string) (string, error) {
	if token == "" {
		return "", nil
	}
	payload, err := jwks.Payload(token)
	if err != nil {
		return "", err
	}
	var claims accesstoken.Claims
	err = json.Unmarshal(payload, &claims)
	return claims.ObjectID, err
}

// couldNotConnect is curl's exit status CURLE_COULDNT_CONNECT.
const couldNotConnect = 7

// curlFailure returns the system's word for a connect that failed, for people,
// from what curl says on stderr: "* Immediate connect fail for
// 169.254.169.254: Operation not permitted", "* connect to 169.254.169.254
// port 80 failed: Connection refused"; else curl's own last line.
func curlFailure(stderr []byte) string {
	last := ""
	for line := range strings.Lines(string(stderr)) {
		last = strings.TrimSpace(line)
		if i := strings.LastIndex(last, ": "); i >= 0 && strings.Contains(last[:i], "connect") {
			return last[i+2:]
		}
	}
	return last
}
