package e2e

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"
)

var (
	faultsDown = flag.Duration("faults.down", 30*time.Second, "for how long the API server is gone in the test of faults")
	faultsHang = flag.Duration("faults.hang", 12*time.Second, "for how long it hangs")
)

// What happens to a node's control plane, its runtime and its agent's means
// touches no pod that runs: pods that ask all the while, and never twice, get
// what is theirs. What changed meanwhile is applied soon after. Not parallel:
// the faults are everybody's.
func TestFaults(t *testing.T) {
	needNode(t)
	t.Cleanup(func() {
		// They pause for up to a minute before they ask the API server again.
		for _, d := range []daemon{controllers, scheduler} {
			d.kill(t)
			d.start(t)
		}
	})
	b, w := startBystanders(t), startWitness(t)
	for _, f := range []fault{
		{"API server killed, started again later", "known pods get cached and new tokens; later, changes come through", killedAPIServer, false},
		{"API server hangs, goes on later", "known pods get cached and new tokens; later, changes come through", hangingAPIServer, false},
		{"watches reset", "no change is missed", closedWatches, false},
		{"etcd compacted, API server restarted, agent cut off meanwhile", "410 Gone: it lists again and misses no change", compactedEtcd, false},
		{"agent killed while the API server is gone", "steered pods are refused until it is back, from its snapshot; then as ever", killedAgent, true},
		{"kubelet killed", "running pods are served; a new pod, once it is back", killedKubelet, false},
		// From here on the kubelet does not pause: it was restarted.
		{"malformed ConfigMap, then a good one", "the former configuration stays applied; then the good one is", malformedConfiguration, false},
		{"containerd killed", "running pods are served; a new pod, once it is back", killedContainerd, false},
		{"etcd restored from a copy of 400 writes ago, control plane and kubelet restarted",
			"known pods are served; a new pod is known, and changes come through", restoredEtcd, false},
		{"agent's service account recreated, its token refused", "known pods are served; changes come through with the kubelet's next token", refusedToken, false},
	} {
		b.during(t, f, w)
	}
}

func killedAPIServer(t *testing.T, w witness) string {
	apiServer.kill(t)
	compact(t)
	issued := w.newTokens(t, *faultsDown)
	started := apiServer.start(t)
	return fmt.Sprintf("gone for %s, new tokens meanwhile: %d; ready %s after its start, %s",
		seconds(*faultsDown), issued, seconds(started), w.changes(t))
}

func hangingAPIServer(t *testing.T, w witness) string {
	resume := apiServer.hang(t)
	issued := w.newTokens(t, *faultsHang)
	resume()
	works := apiServer.works(t)
	return fmt.Sprintf("stopped for %s, new tokens meanwhile: %d; it answered %s after it went on, %s",
		seconds(*faultsHang), issued, seconds(works), w.changes(t))
}

func closedWatches(t *testing.T, w witness) string {
	restore := cutOff(t, func() { w.nudge(t) })
	w.label(t, "-")
	restore()
	label := w.reached(t, nodes)
	w.steered(t)
	return fmt.Sprintf("a change made meanwhile came through %s after the agent could connect", label)
}

func compactedEtcd(t *testing.T, w witness) string {
	version := w.version(t)
	restore := cutOff(t, func() { w.nudge(t) })
	w.label(t, "-")
	compact(t)
	apiServer.kill(t) // its cache of watches has what etcd has not
	apiServer.start(t)
	gone := kubectl(t, "get", "--raw", "/api/v1/namespaces/"+w.namespace+"/pods?watch=true&timeoutSeconds=1&resourceVersion="+version)
	if !strings.Contains(gone, `"code":410`) {
		t.Errorf("the resource version %s is not gone: %.200s", version, gone)
	}
	restore()
	label := w.reached(t, nodes)
	w.steered(t)
	return fmt.Sprintf("410 for its version; a change made meanwhile came through %s after the agent could connect", label)
}

// restoredEtcd has the cluster go back to versions before those that the agent
// has seen. The API server then accepts its watch and may be silent on it.
func restoredEtcd(t *testing.T, w witness) string {
	const data, older = "/run/node/etcd", "/run/node/etcd-older"
	etcd.kill(t)
	inNode(t, "cp", "--archive", data, older)
	etcd.start(t)
	apiServer.works(t)
	write(t, 400)
	w.nudge(t)
	seen := w.version(t)
	for _, d := range []daemon{kubelet, scheduler, controllers, apiServer, etcd} {
		d.kill(t)
	}
	inNode(t, "bash", "-euc", `rm -r "$0"; mv "$1" "$0"`, data, older)
	for _, d := range []daemon{etcd, apiServer, controllers, scheduler, kubelet} {
		d.start(t)
	}
	restored := w.version(t)
	return fmt.Sprintf("resource version %s after %s; %s, %s", restored, seen, latePod(t, "late-restore"), w.changes(t))
}

// killedAgent is the one fault that pods notice. Those that are steered are
// refused while there is no agent: the kernel side stays active.
func killedAgent(t *testing.T, w witness) string {
	apiServer.kill(t)
	killed := agentProcess(t)
	inNode(t, "kill", "-KILL", killed)
	served := w.reached(t, witnessName)
	becomesStale(t, "1")
	if now := agentProcess(t); now == killed {
		t.Fatal("the agent is the one that was killed")
	}
	apiServer.start(t)
	w.label(t, "-")
	label := w.reached(t, nodes)
	w.steered(t)
	becomesStale(t, "0")
	return fmt.Sprintf("served %s after the kill, from a snapshot; with the API server back a label came through after %s, and nothing was stale", served, label)
}

// becomesStale waits until the agent says of what it knows of pods that it is
// stale ("1"), or not ("0").
func becomesStale(t *testing.T, want string) {
	t.Helper()
	eventually(t, 60*time.Second, func() error {
		metrics, err := tryInNode(nil, "curl", "--silent", "--fail", "http://127.0.0.1:9402/metrics")
		if err == nil && !strings.Contains(metrics, "\nsidestep_pods_stale "+want+"\n") {
			err = fmt.Errorf("sidestep_pods_stale is not %s", want)
		}
		return err
	})
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
