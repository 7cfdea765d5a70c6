package broker

import (
	"time"

	"github.com/sidestep-agent/sidestep/pkg/broker/imdspath"
	"github.com/sidestep-agent/sidestep/pkg/broker/relay"
	"github.com/sidestep-agent/sidestep/pkg/connlimit"
)

// All that a pod, or anybody who reaches a listener, can make the broker do is
// bounded here, for each pod and over all. docs/bounds.md has the same figures.
// What a pod may ask for per second and at once is the configuration's (Limits).
//
// A connection that is idle costs some 10 KiB with its goroutine and buffer,
// one that net/http serves or whose caller is held some 25 KiB, one whose
// request has begun to arrive up to 40 KiB. The bounds over all add up to some
// 60 MiB in the worst case, beside the 50 MiB that the agent needs itself and
// the 256 MiB that its container has.

// connsPerRequest is how many connections a pod may hold open for each
// request that it may have under way: clients keep idle ones for later. Beyond the
// kernel's own quota (cmd/agent/daemon/options.go) none is steered.
const connsPerRequest = 8

// beginsPerRequest is how many connections a pod's listener accepts a second for
// each request a second that the pod may make; as many as it may hold open come
// at once. Who opens one for each request needs one, and a client that looks
// first whether somebody answers a second one. Without this, a pod that connects
// and resets as fast as it can has the agent work for it as much as it works
// itself, and others' requests wait behind that. What is beyond waits in the
// listener's queue, of net.core.somaxconn connections (4096), and when that is
// full its client sends its SYN again.
const beginsPerRequest = 2

// connBounds bounds connections. Where one is reached, idle ones are closed for
// newcomers, the longest idle one of the pod with the most connections first.
var connBounds = connlimit.Bounds{
	// 8 for each of 250 pods, which is what a node has at most.
	Total: 2048,
	// More than a client opens before it has its first answer.
	Spare: 4,
	// A request that arrives in pieces is rare, and takes milliseconds: 32 of a
	// pod at once are an attack, or a network that has stalled. The one that
	// has been arriving for the longest is then answered 429.
	Reading: 32, ReadingTotal: 512,
	// A pod that is not known yet has just started. What is over the bound is
	// answered 429, which every client retries.
	Held: 64, HeldTotal: 512,
}

const (
	// turnedAway is how many connections over a bound are answered 429 at a time.
	// What is over that is closed without an answer.
	turnedAway = 128
	// turnAwayTime is how long each of them may take to send its request.
	turnAwayTime = time.Second
	// evictTime is how long an answer may take that is sent to a client whose
	// connection is closed for others. It is short enough to send, nearly
	// always at once: nothing was sent on the connection before.
	evictTime = 10 * time.Millisecond
	// overLimitPause is how long a client waits for its second 429 in a row on
	// one connection, so that clients that ignore Retry-After cost little.
	overLimitPause = 100 * time.Millisecond
)

// How long things may take.
const (
	// hold is how long a caller is kept waiting for a token before it is
	// answered 429: every client that we know of waits 35 s for an answer.
	hold = 25 * time.Second
	// exchangeTime is what a token request gets where its caller was held
	// before it was known.
	exchangeTime = 5 * time.Second
	// metadataHold is how long a request for metadata waits until its caller
	// is known. Those who look for a cloud give up after 1 s, some after 3.
	metadataHold = 800 * time.Millisecond
	// probeAfter is how long a caller may be unknown before its bytes are
	// looked at: most are known at once.
	probeAfter = 50 * time.Millisecond
	// halfClosedTime is how long a request is still worked on after its client
	// has sent the end of the stream. Those who only closed their sending side
	// get their answer; those who have left cost no more than this.
	halfClosedTime = 5 * time.Second

	// net/http cancels a request's context at the read timeout, even with the
	// request read, so that it must exceed hold too.
	readHeaderTimeout = 10 * time.Second
	readTimeout       = hold + 15*time.Second
	writeTimeout      = hold + 20*time.Second
	idleTimeout       = 2 * time.Minute
	drainTimeout      = hold
)

// Sizes in bytes.
const (
	maxHeaderBytes = 16 << 10
	maxForm        = 16 << 10 // a token request's body has less than 2 KiB
	maxFirst       = 4 << 10  // what is read of a caller who is held
)

// Log lines. What is over a budget is counted, and the next line has the
// number.
const (
	podLines        = 20 // at once, of one pod's requests that brought no token
	podLineInterval = 10 * time.Second
	allLines        = 200 // at once, of all pods
	allLineInterval = 100 * time.Millisecond
	connLines       = 10 // of connections that are refused, and of panics
	connInterval    = time.Second
)

// relayLimits bounds what is asked of the node's IMDS.
var relayLimits = relay.Limits{
	// Azure limits a VM to five requests a second. One is the node's own: the
	// kubelet, the cloud provider and other agents ask too.
	PerSecond: 4,
	// As many as one pod that is alone gets within a second.
	UnderWay: 4,
	// As many as one pod that is alone gets while its requests are patient.
	Waiting:  16,
	Patience: 4 * time.Second,
	Document: 1 << 20, // the largest known one has some 30 KiB
	// The documents that pods ask for are few; those that IMDS has, in all
	// versions and formats, are some thousands.
	Kept: 256, KeptBytes: 4 << 20,
	// An error may be about a document that is there the next moment.
	Failure: time.Second,
	// A longer Retry-After than IMDS was ever seen to send.
	LongPause: 2 * time.Minute,
}

// documents says for how long an endpoint's documents are shared, and how long
// IMDS may take for them.
var documents = map[imdspath.Endpoint]struct{ share, timeout time.Duration }{
	// Name, size, zone, network: they change when somebody changes the VM, or
	// its tags, and IMDS itself shows that only some time later.
	imdspath.Instance: {2 * time.Minute, 2 * time.Second},
	// Versions come with updates of the host.
	imdspath.Versions: {10 * time.Minute, 2 * time.Second},
	// Rules change with Services of type LoadBalancer.
	imdspath.LoadBalancer: {15 * time.Second, 2 * time.Second},
	// Events are polled once a second and must be seen at once. The VM takes
	// 8 s and more, for the first request up to minutes.
	imdspath.ScheduledEvents: {time.Second, hold},
	// It is not known what is there.
	imdspath.Allowed: {time.Second, 10 * time.Second},
}
