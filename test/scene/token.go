package scene

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// tokenURL asks for a token of the pod's default identity.
const tokenURL = "http://" + lab.IMDS + "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"

// StatusError is the status of an answer that is not what was asked for.
type StatusError int

func (e StatusError) Error() string { return fmt.Sprintf("answer %d", int(e)) }

// Token asks the metadata service for a token, once, and returns whose came, by
// client id. It is for processes of pods. The error is a StatusError, or the
// client's.
func Token(ctx context.Context, client *http.Client) (clientID string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, tokenURL, http.NoBody)
	if err != nil {
		return "", err
	}
	request.Header.Set("Metadata", "true")
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", StatusError(response.StatusCode)
	}
	var token struct {
		ClientID string `json:"client_id"`
	}
	if err := json.NewDecoder(response.Body).Decode(&token); err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return token.ClientID, nil
}
