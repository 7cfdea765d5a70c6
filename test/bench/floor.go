package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// floor is the baseline of everything over HTTP: a bare net/http server in the
// pod's network namespace, in a process of its own, that has the answer at
// hand. It is outside of the pods' cgroups, as the agent is.
type floor struct {
	At   netip.AddrPort
	Body []byte
	// Raw has it answer whatever it reads with the bytes of Body, which are a
	// whole answer then: no HTTP, the least that any server in Go does.
	Raw bool
}

func init() { lab.Register("floor", serveFloor) }

// serveFloor serves until the process is killed. A line says that it listens.
func serveFloor(f floor) (struct{}, error) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	l, err := plain.Listen(context.Background(), "tcp4", f.At.String())
	if err != nil {
		return struct{}{}, err
	}
	fmt.Println("listening")
	if f.Raw {
		return struct{}{}, serveRaw(l, f.Body)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = w.Write(f.Body)
	})} //nolint:gosec // bare: the point of it
	return struct{}{}, server.Serve(l)
}

// serveRaw answers each read with the same bytes.
func serveRaw(l net.Listener, answer []byte) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			request := make([]byte, 4<<10)
			for {
				if _, err := c.Read(request); err != nil {
					return
				}
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// startFloor starts a floor for the pod's clients. The function ends it.
func startFloor(n *lab.Node, p *lab.Pod, f floor) (pid int, end func(), err error) {
	cgroup := filepath.Join(filepath.Dir(n.Kubepods), fmt.Sprintf("floor-%d", f.At.Port()))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return 0, nil, err
	}
	input, err := json.Marshal(f)
	if err != nil {
		return 0, nil, err
	}
	cmd := exec.CommandContext(context.Background(), lab.Program())
	cmd.Env = lab.TaskEnvironment("floor")
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(input)), os.Stderr
	said, err := cmd.StdoutPipe()
	if err != nil {
		return 0, nil, err
	}
	if err := p.StartIn(cgroup, cmd); err != nil {
		return 0, nil, err
	}
	end = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		_ = os.Remove(cgroup)
	}
	if _, err := io.ReadFull(said, make([]byte, len("listening\n"))); err != nil {
		end()
		return 0, nil, fmt.Errorf("start the floor: %w", err)
	}
	return cmd.Process.Pid, end, nil
}
