package main

import "slices"

const (
	steering = "bpf/sidestep.c"
	callers  = "bpf/caller.h"
	binds    = "bpf/bind.h"
	flows    = "bpf/flow.h"
	gates    = "bpf/gate.h"
	maps     = "bpf/maps.h"
	frame    = "bpf/frame.h"
	guardGo  = "pkg/delivery/guard.go"
	podLinks = "pkg/delivery/links.go"
	flowsGo  = "pkg/intercept/flows.go"
	tagsGo   = "pkg/intercept/verdicts.go"
	linksGo  = "pkg/intercept/attach.go"
	listener = "pkg/delivery/listener.go"
	attestor = "pkg/attest/attest.go"
	roundGo  = "pkg/delivery/round.go"
	tables   = "pkg/routeguard/table.go"
)

// noRelease leaves the ends of sockets to sockops alone.
var noRelease = edit{steering, "SEC(\"cgroup/sock_release\")\nint sidestep_release(struct bpf_sock *ctx)\n{",
	"SEC(\"cgroup/sock_release\")\nint sidestep_release(struct bpf_sock *ctx)\n{\n\tif (ctx->family)\n\t\treturn 1;"}

var noNamespace = []edit{
	{steering, "key->netns_cookie = netns_cookie;", "key->netns_cookie = 0;"},
	{flowsGo, "NetnsCookie: c.NetnsCookie,", "NetnsCookie: 0,"},
	{tagsGo, "tag.NetnsCookie, err = unix.", "_, err = unix."},
}

var noClientPort = []edit{
	{steering, "claim->key.client_port = ctx->local_port;", "claim->key.client_port = 0;"},
	{flowsGo, "ClientPort:  c.Client.Port(),", "ClientPort:  0,"},
	{flows, ".client_port = client_port,", ".client_port = 0,"},
}

// openGate stands behind whatever keeps impostors from the listeners' places.
var openGate = edit{gates, "count_drop(DROP_GATE);\n\treturn DROP;", "return SEND;"}

// notAmbiguous has the second claim on a flow go unnoticed.
var notAmbiguous = edit{flows, "other->ambiguous = 1;", "other->ambiguous = 0;"}

var defences = []defence{
	{name: "connect hooks", agent: true, edits: []edit{
		{steering, "if (!concerns_us(addr) || !is_tcp(ctx))\n\t\treturn ALLOW;\n\tret = on_connect(ctx, addr, FAMILY_IPV4, &key);",
			"ret = ALLOW;"},
		{steering, "if (!concerns_us(addr) || !is_tcp(ctx))\n\t\treturn ALLOW;\n\tret = on_connect(ctx, addr, FAMILY_IPV6, &key);",
			"ret = ALLOW;"},
	}},
	{name: "the claim's destination", edits: []edit{
		{steering, "return claim && claim->key.server_addr == addr &&\n\t       claim->key.server_port == bpf_ntohs(ctx->user_port);",
			"return claim != NULL;"},
	}},
	{name: "direct dials", edits: []edit{
		{steering, "else if (dials_listener(ctx, s, addr))", "else if (s->kubepods_id == 1)"},
	}},
	{name: "one socket a port", edits: []edit{
		{listener, "l.netnsCookie, err = netnsCookie(socket)", "l.netnsCookie, err = netnsCookie(socket)\n" +
			"\t\t_ = socket.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })"},
	}},
	{name: "listener's tag", edits: []edit{
		{steering, "tagged = bpf_sk_storage_get(&sidestep_tags, sk, NULL, 0) != NULL;", "tagged = true;"},
		openGate,
	}},
	{name: "bind hooks", edits: []edit{
		{binds, "return caller.entry && (caller.entry->flags & ENTRY_AGENT);", "return true;"},
		openGate,
	}},
	{name: "netns in the flow's key", edits: noNamespace},
	{name: "ambiguous flows", edits: []edit{notAmbiguous}},
	{name: "flows end with their socket", edits: []edit{
		{flows, "if (!counted)\n\t\treturn;", "if (!counted || claim->quota_id)\n\t\treturn;"},
		{flowsGo, "flows.take(flowKey(c))", "flows.lookup(flowKey(c))"},
		notAmbiguous,
	}},
	{name: "bound sockets", edits: []edit{
		{steering, "if (!sk || sk->bound_dev_if)", "if (!sk)"},
	}},
	{name: "client port in the flow's key", edits: append(noClientPort, notAmbiguous)},
	{name: "namespace and port in the flow's key", edits: slices.Concat(noNamespace, noClientPort, []edit{notAmbiguous})},
	{name: "netns of the caller", edits: []edit{
		{steering, "entry->netns_cookie != netns_cookie)", "entry->netns_cookie == 0)"},
	}},
	{name: "unknown pods are held", edits: []edit{
		{steering, "\t\treturn OUTCOME_PASS;\n\t}\n\treturn OUTCOME_UNKNOWN;", "\t\treturn OUTCOME_PASS;\n\t}\n\treturn OUTCOME_PASS;"},
	}},
	{name: "pods must be known", edits: []edit{
		{attestor, "return caller, workload.Unknown, nil", "return caller, workload.Steer, nil"},
		secondLook,
	}},
	{name: "second look at the pod", edits: []edit{secondLook}},
	{name: "cgroup ids", edits: []edit{
		{attestor, "ref, err := a.cgroups.Resolve(caller.CgroupID)",
			"ref, err := workload.CgroupRef{PodUID: caller.PodUID, ContainerID: caller.ContainerID}, error(nil)"},
	}},
	{name: "quota of a pod", edits: []edit{
		{steering, "return !n || *n < (__s64)s->quota;", "return true;"},
		{maps, "max_entries, 32768", "max_entries, 64"}, // or it would take long to fill
	}},
	{name: "quota not by own cgroups", edits: []edit{
		{callers, "caller.quota_id = ancestor_id(skb, level + pod);", "caller.quota_id = ancestor_id(skb, level + 3);"},
	}},
	{name: "quota by the pod's cgroup", edits: []edit{
		{callers, "return 2;\n\treturn 1;", "return 3;\n\treturn 2;"},
	}},
	{name: "sockets' release", edits: []edit{noRelease}},
	{name: "ends before a new beginning", edits: []edit{
		{steering, "\tend_flow(claim, bpf_get_socket_cookie(ctx));\n\tclaim->cgroup_id", "\tclaim->cgroup_id"},
		{steering, "\tend_flow(claim, cookie);", ""},
	}},
	{name: "gate", edits: []edit{openGate}},
	{name: "closed sockets stay shut", edits: []edit{
		{flows, "if (claim->state != CLAIM_ACCEPTED)\n\t\tclaim->state = CLAIM_ENDED;", ""},
	}},
	{name: "frames that are not understood", edits: []edit{
		{frame, "return carries_no_ip(bpf_ntohs(protocol)) ? SERVICE_NONE : SERVICE_ANY;", "return SERVICE_NONE;"},
	}},
	{name: "source routes", edits: []edit{
		{frame, "if (type == OPTION_LSRR || type == OPTION_SSRR)", "if (type == OPTION_LSRR && type == OPTION_SSRR)"},
	}},
	{name: "links that come later", edits: []edit{
		{guardGo, "have.inode == ns.inode && !fresh", "have.inode == ns.inode"},
	}},
	{name: "links past the node", edits: []edit{
		{podLinks, "if len(names) > 0 {", "if len(names) > len(links) {"},
	}},
	{name: "second line", edits: []edit{
		{tables, "&expr.Verdict{Kind: expr.VerdictDrop}", "&expr.Verdict{Kind: expr.VerdictAccept}"},
	}},
	{name: "pinned links", agent: true, edits: []edit{
		{linksGo, "pins = append(pins, &l.pin)", "_ = l.pin"},
	}},
	{name: "verdicts end with the cgroup", edits: []edit{
		{roundGo, "if !r.wasDecided(cg) {", "if r.wasDecided(cg) || true {"},
	}},
	{name: "spliced from the pod's namespace", edits: []edit{
		{"pkg/delivery/held.go", "err = ns.do(open)", "err = open()"},
	}},
	{name: "no token where neighbours can read", edits: []edit{
		{"pkg/delivery/held.go", "if ports <= 1 {", "if ports >= 0 {"},
	}},
	{name: "attach first", agent: true, edits: []edit{
		{"cmd/agent/daemon/agent.go", "a.loadKernel, a.attachFirst)", "a.loadKernel)"},
	}},
}

var secondLook = edit{attestor, "w, decision, ok := a.pods.Lookup(ref)\n\tif !ok {", "w, decision, ok := a.pods.Lookup(ref)\n\tif ok && !ok {"}
