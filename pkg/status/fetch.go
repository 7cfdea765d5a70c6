package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Fetch asks the agent that serves, of those whose state directory is stateDir,
// for its report. If there is none, or it may not be asked, the error says what
// to do.
func Fetch(ctx context.Context, stateDir string) (Report, error) {
	resp, err := get(ctx, filepath.Join(stateDir, servingName), reportPath)
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return Report{}, fmt.Errorf("status: the agent answered %s", resp.Status)
	}
	var r Report
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return Report{}, fmt.Errorf("status: read the agent's report: %w", err)
	}
	return r, nil
}

// Ready returns nil if this instance of the agent is ready, whichever other
// serves, and ErrNotReady if it answers that it is not.
func Ready(ctx context.Context, stateDir, instance string) error {
	resp, err := get(ctx, filepath.Join(stateDir, socketOf(instance)), readyPath)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return ErrNotReady
	}
	return nil
}

// get sends one request to the agent. The caller closes the answer's body.
func get(ctx context.Context, socket, path string) (*http.Response, error) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, socket) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	resp, err := client.Do(req)
	switch {
	case err == nil:
		return resp, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("status: no agent answers at %s: run this in the sidestep-agent pod of the node, "+
			"or set --state-dir to the running agent's: %w", socket, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("status: %s may not be opened: run this as the agent's user (root): %w", socket, err)
	default:
		return nil, fmt.Errorf("status: ask the agent: %w", err)
	}
}
