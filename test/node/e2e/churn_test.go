package e2e

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sidestep-agent/sidestep/test/standins/entra"
	standin "github.com/sidestep-agent/sidestep/test/standins/imds"
)

const (
	waves    = 3
	perWave  = 10
	labelled = waves * perWave * 2 / 3
)

// wave returns ten pods that ask all the time. In each wave the same names are
// other service accounts', and every third one's pod is not labelled.
func wave(number int) []pod {
	var pods []pod
	for i := range perWave {
		p := pod{
			namespace: edge, name: fmt.Sprintf("churn-%d", i), account: "app-one", labelled: true, token: newVolume,
			labels: map[string]string{"churn": strconv.Itoa(number)},
			args:   []string{"get", "-every=200ms", "-timeout=40s", tokenPath + url.QueryEscape(vaultURL)},
		}
		switch (i + number) % 3 {
		case 1:
			p.account = "app-two"
		case 2:
			p.labelled = false
		}
		pods = append(pods, p)
	}
	return pods
}

func (p pod) owner() string {
	if p.labelled {
		return p.account
	}
	return nodes
}

// Thirty pods come and go, each in the place of another of the same name that
// asks until it is killed. None ever gets another's token, and nothing of them
// is left in the agent.
func TestChurn(t *testing.T) {
	needNode(t)
	issued := sinceNow[entra.Entry](t, "entra")
	leaked := sinceNow[standin.Entry](t, "imds")
	before, running := agentHoldings(t), sandboxes(t)
	t.Cleanup(func() { kubectl(t, "-n", edge, "delete", "pods", "-l", "churn", "--wait=false") })
	may := map[string]bool{} // whether the pod with that address passes
	for number := range waves {
		pods := wave(number)
		var objects []any
		for _, p := range pods {
			objects = append(objects, p.object())
		}
		// The old pods are gone from the API at once, and from the node later.
		mustList(t, objects, "replace", "--force", "--grace-period=0")
		checkWave(t, pods, strconv.Itoa(number), may)
	}
	kubectl(t, "-n", edge, "delete", "pods", "-l", "churn", "--wait")
	checkIssued(t, issued())
	steered := map[string]bool{}
	for address, passes := range may {
		steered[address] = !passes
	}
	checkLeaked(t, leaked(), steered)
	// Kubelet ends pods that were deleted by force in its own time.
	eventually(t, 2*time.Minute, func() error {
		if n := sandboxes(t); n > running {
			return fmt.Errorf("%d sandboxes are there, and %d were", n, running)
		}
		return nil
	})
	checkNothingLeft(t, before)
}

// sandboxes returns how many pods have a network namespace.
func sandboxes(t *testing.T) int {
	t.Helper()
	return len(strings.Fields(inNode(t, "ls", "/run/netns")))
}

// checkIssued makes sure that each service account got tokens of its own
// identity alone, which bears its name.
func checkIssued(t *testing.T, issued []entra.Entry) {
	t.Helper()
	for _, e := range issued {
		if e.Kind != entra.Token || !e.Verified || e.Error != "" {
			continue
		}
		if _, account, _ := strings.Cut(strings.TrimPrefix(e.Subject, "system:serviceaccount:"), ":"); account != named(e.ObjectID) {
			t.Errorf("%s got a token of %s", e.Subject, named(e.ObjectID))
		}
	}
}

// checkLeaked makes sure that no steered pod, by its address, came to the
// node's own metadata service for an identity.
func checkLeaked(t *testing.T, asked []standin.Entry, steered map[string]bool) {
	t.Helper()
	for _, e := range asked {
		address, _, _ := strings.Cut(e.Remote, ":")
		if e.Identity && steered[address] {
			t.Errorf("a labelled pod asked the node's metadata service for an identity: %+v", e)
		}
	}
}

// checkWave waits until each pod was answered three times, and fails the test
// if any of its answers is not its own.
func checkWave(t *testing.T, pods []pod, number string, may map[string]bool) {
	t.Helper()
	want := map[string]string{}
	for _, p := range pods {
		want[p.name] = p.owner()
	}
	var log string
	eventually(t, 90*time.Second, func() error {
		var err error
		if log, err = tryInNode(nil, "kubectl", "-n", edge, "logs", "-l", "churn="+number, "--prefix", "--tail=-1", "--max-log-requests=20"); err != nil {
			return err
		}
		for name := range want {
			if n := strings.Count(log, "[pod/"+name+"/app]"); n < 3 {
				return fmt.Errorf("%s was answered %d times", name, n)
			}
		}
		return nil
	})
	for line := range strings.Lines(log) {
		prefix, text, _ := strings.Cut(line, " ")
		name, _, _ := strings.Cut(strings.TrimPrefix(prefix, "[pod/"), "/")
		if got := answers(t, text)[0].whose(); got != want[name] {
			t.Errorf("wave %s: %s gets %q, want %q", number, name, got, want[name])
		}
	}
	addresses := kubectl(t, "-n", edge, "get", "pods", "-l", "churn="+number,
		"-o", `jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}`)
	for line := range strings.Lines(addresses) {
		name, address, _ := strings.Cut(strings.TrimSpace(line), " ")
		may[address] = may[address] || want[name] == nodes
	}
}

// holdings are what keeps a deleted pod's network namespace alive: sockets in
// it, among all descriptors but the sockets of the node's own namespace, and
// descriptors of namespaces.
type holdings struct {
	descriptors, namespaces int
	kinds                   map[string]int // of descriptors, to see what was left
}

// agentHoldings returns what the agent has open.
func agentHoldings(t *testing.T) holdings {
	t.Helper()
	process := agentProcess(t)
	open := strings.Fields(inNode(t, "bash", "-c", "readlink /proc/$0/fd/* || true", process))
	if len(open) == 0 {
		t.Fatal("the agent has nothing open")
	}
	// Read after the descriptors: a socket closed in between counts as a pod's,
	// and the next look does not see it.
	nodes := nodeSockets(t, process)
	h := holdings{kinds: map[string]int{}}
	for _, what := range open {
		if strings.HasPrefix(what, "net:[") {
			h.namespaces++
		}
		if !nodes[what] {
			h.descriptors++
			kind, _, _ := strings.Cut(what, "[")
			h.kinds[kind]++
		}
	}
	return h
}

// nodeSockets returns the TCP sockets of the network namespace that the process
// is in, written as its links to them are: connections to Entra, which are kept
// for 90 seconds, and to the API server are among them.
func nodeSockets(t *testing.T, process string) map[string]bool {
	t.Helper()
	const inode = 9 // proc_pid_net(5): the tenth field
	sockets := map[string]bool{}
	for line := range strings.Lines(inNode(t, "cat", "/proc/"+process+"/net/tcp", "/proc/"+process+"/net/tcp6")) {
		if fields := strings.Fields(line); len(fields) > inode {
			sockets["socket:["+fields[inode]+"]"] = true
		}
	}
	return sockets
}

// checkNothingLeft makes sure that the agent has released deleted pods.
func checkNothingLeft(t *testing.T, before holdings) {
	t.Helper()
	// Files that the agent reads just then.
	const others = 5
	if others > labelled/2 {
		t.Fatal("a leak would not be seen")
	}
	eventually(t, 30*time.Second, func() error {
		for _, r := range agentStatus(t).Pods {
			if r.Namespace == edge && strings.HasPrefix(r.Name, "churn-") {
				return fmt.Errorf("the agent has %s still", r.Name)
			}
		}
		now := agentHoldings(t)
		if now.descriptors > before.descriptors+others || now.namespaces > before.namespaces {
			return fmt.Errorf("the agent holds %+v, and held %+v", now, before)
		}
		return nil
	})
}
