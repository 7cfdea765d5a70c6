package main

import "slices"

const (
	steering = "bpf/sidestep.c"
	callers  = "bpf/caller.h"
	binds    = "bpf/bind.h"
	maps     = "bpf/maps.h"
	flowsGo  = "pkg/intercept/flows.go"
	linksGo  = "pkg/intercept/links.go"
	listener = "pkg/delivery/listener.go"
	attestor = "pkg/attest/attest.go"
	tables   = "pkg/routeguard/table.go"
)

var noNamespace = []edit{
	{steering, "key->netns_cookie = netns_cookie;", "key->netns_cookie = 0;"},
	{flowsGo, "NetnsCookie: c.NetnsCookie,", "NetnsCookie: 0,"},
}

var noClientPort = []edit{
	{steering, "claim->key.client_port = ctx->local_port;", "claim->key.client_port = 0;"},
	{flowsGo, "ClientPort:  c.Client.Port(),", "ClientPort:  0,"},
}

// notAmbiguous has the second claim on a flow go unnoticed.
var notAmbiguous = edit{steering, "other->ambiguous = 1;", "other->zero = 0;"}

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
	}},
	{name: "bind hooks", edits: []edit{
		{binds, "return caller.entry && (caller.entry->flags & ENTRY_AGENT);", "return true;"},
	}},
	{name: "netns in the flow's key", edits: noNamespace},
	{name: "ambiguous flows", edits: []edit{notAmbiguous}},
	{name: "flows end with their socket", edits: []edit{
		{steering, "if (!claim || claim->state != CLAIM_RECORDED)\n\t\treturn;", "if (!claim || claim->state != CLAIM_RECORDED || claim->quota_id)\n\t\treturn;"},
		{flowsGo, "h.objects.SidestepFlows.LookupAndDelete(flowKey(c), &f)", "h.objects.SidestepFlows.Lookup(flowKey(c), &f)"},
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
		{callers, "caller.quota_id = ancestor_id(skb, level + 2);", "caller.quota_id = ancestor_id(skb, level + 3);"},
	}},
	{name: "second line", edits: []edit{
		{tables, "&expr.Verdict{Kind: expr.VerdictDrop}", "&expr.Verdict{Kind: expr.VerdictAccept}"},
	}},
	{name: "pinned links", agent: true, edits: []edit{
		{linksGo, "pins = append(pins, &l.pin)", "_ = l.pin"},
	}},
}

var secondLook = edit{attestor, "w, decision, ok := a.pods.Lookup(ref)\n\tif !ok {", "w, decision, ok := a.pods.Lookup(ref)\n\tif ok && !ok {"}
