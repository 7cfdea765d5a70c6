package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// daemon is one of the node's own programs, by the name that init.sh gives it.
type daemon struct {
	name  string
	ready []string // a command that succeeds once it does its work
}

var (
	etcd        = daemon{"etcd", []string{"curl", "--silent", "--fail", "http://127.0.0.1:2379/health"}}
	apiServer   = daemon{"kube-apiserver", []string{"curl", "--silent", "--fail", "--max-time", "2", "--cacert", pki + "ca.crt", "--cert", pki + "admin.crt", "--key", pki + "admin.key", "https://127.0.0.1:6443/readyz"}}
	controllers = daemon{"kube-controller-manager", []string{"curl", "--silent", "--fail", "--insecure", "https://127.0.0.1:10257/healthz"}}
	scheduler   = daemon{"kube-scheduler", []string{"curl", "--silent", "--fail", "--insecure", "https://127.0.0.1:10259/healthz"}}
	kubelet     = daemon{"kubelet", []string{"curl", "--silent", "--fail", "http://127.0.0.1:10248/healthz"}}
	containerd  = daemon{"containerd", []string{"ctr", "version"}}
)

const (
	daemons = "/run/node/daemons/"
	pki     = "/run/node/pki/"
)

// signal sends it a signal by name.
func (d daemon) signal(t *testing.T, name string) {
	t.Helper()
	inNode(t, "bash", "-c", `kill -s "$0" "$(<"$1")"`, name, daemons+d.name+".pid")
}

// kill ends it without a warning. It is started again at the latest when the
// test ends.
func (d daemon) kill(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := tryInNode(nil, d.ready...); err != nil {
			d.start(t)
		}
	})
	d.signal(t, "KILL")
	eventually(t, 10*time.Second, func() error {
		if _, err := tryInNode(nil, "bash", "-c", `! kill -s 0 "$(<"$0")"`, daemons+d.name+".pid"); err != nil {
			return fmt.Errorf("%s has not ended", d.name)
		}
		return nil
	})
}

// start runs it again with the arguments that it had, and returns how long it
// took until it did its work.
func (d daemon) start(t *testing.T) time.Duration {
	t.Helper()
	inNode(t, "bash", "-c", `setsid "$0" </dev/null >/dev/null 2>&1 &`, daemons+d.name)
	return d.works(t)
}

// works waits until it does its work.
func (d daemon) works(t *testing.T) time.Duration {
	t.Helper()
	return eventually(t, 60*time.Second, func() error {
		_, err := tryInNode(nil, d.ready...)
		return err
	})
}

// hang stops it as it is until resume, or the test's end.
func (d daemon) hang(t *testing.T) (resume func()) {
	t.Helper()
	t.Cleanup(func() { d.signal(t, "CONT") })
	d.signal(t, "STOP")
	return func() { d.signal(t, "CONT") }
}

// compact has etcd forget all versions of objects but the present ones.
func compact(t *testing.T) {
	t.Helper()
	inNode(t, "bash", "-euo", "pipefail", "-c", `
		call() { curl --silent --show-error --fail "http://127.0.0.1:2379/v3/kv/$1" --data "$2"; }
		revision=$(call range '{"key": "AA=="}' | grep -o '"revision":"[0-9]*"' | tr -dc 0-9)
		call compaction "{\"revision\": \"$revision\", \"physical\": true}"`)
}

// write has etcd's revision grow by so many writes that are no objects.
func write(t *testing.T, times int) {
	t.Helper()
	inNode(t, "bash", "-euo", "pipefail", "-c", `
		for ((i = 0; i < $0; i++)); do
			printf '%s\n' 'url = "http://127.0.0.1:2379/v3/kv/put"' 'data = "{\"key\": \"L3NpZGVzdGVwLXRlc3Q=\", \"value\": \"AA==\"}"'
			((i == $0 - 1)) || echo next
		done | curl --silent --show-error --fail --output /dev/null --config -`, fmt.Sprint(times))
}

// cutOff resets the agent's connections to the API server, and refuses it new
// ones until restore. Nothing else on the node uses the Service's address.
func cutOff(t *testing.T, nudge func()) (restore func()) {
	t.Helper()
	rule := strings.Fields("OUTPUT -d 10.224.0.4 -p tcp --dport 6443 -j REJECT --reject-with tcp-reset")
	change := func(how string) error {
		_, err := tryInNode(nil, append([]string{"iptables", "-w", how}, rule...)...)
		return err
	}
	t.Cleanup(func() { _ = change("-D") })
	if err := change("-I"); err != nil {
		t.Fatal(err)
	}
	// What it acknowledges is answered with a reset.
	eventually(t, 30*time.Second, func() error {
		nudge()
		if open := inNode(t, "ss", "-Htn", "state", "established", "dst", "10.0.0.1"); open != "" {
			return fmt.Errorf("still open: %s", open)
		}
		return nil
	})
	return func() {
		if err := change("-D"); err != nil {
			t.Fatal(err)
		}
	}
}
