package scene

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Metrics returns what the agent on the node says of itself, in Prometheus'
// text format. It leaves the agent as it was: a connection that stayed open
// would count, and so would the room that it takes to compress.
func Metrics(ctx context.Context) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+MetricsAddress+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("scrape the agent: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("scrape the agent: %w", StatusError(response.StatusCode))
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("scrape the agent: %w", err)
	}
	return text, nil
}
