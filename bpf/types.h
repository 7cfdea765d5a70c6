// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* What the kernel and the agent say to each other. pkg/intercept has the Go
 * side of each struct, generated from here. Addresses are in network byte
 * order, ports in host byte order. */
#pragma once

#include <linux/bpf.h>

/* pkg/workload has the same numbers. */
enum verdict {
	VERDICT_UNKNOWN,
	VERDICT_PASS,
	VERDICT_STEER,
	VERDICT_DENY,
};

/* What became of a connect, for the counters: the verdicts, and refusals that
 * no verdict asked for (a listener missing or dialled directly, a socket
 * bound to a device, a quota used up), and those of the wire server. */
enum outcome {
	OUTCOME_UNKNOWN = VERDICT_UNKNOWN,
	OUTCOME_PASS = VERDICT_PASS,
	OUTCOME_STEER = VERDICT_STEER,
	OUTCOME_DENY = VERDICT_DENY,
	OUTCOME_REFUSED,
	OUTCOME_WIRESERVER,
	OUTCOMES,
};

/* Which guard dropped a packet, for the counters. */
enum drop {
	DROP_SOCKET, /* cgroup_skb, by the socket's cgroup */
	DROP_PACKET, /* tc, by the pod's link */
	DROP_GATE,   /* cgroup_skb, payload of a connection that is not the agent's */
	DROPS,
};

enum family {
	FAMILY_IPV4,
	FAMILY_IPV6,
	FAMILIES,
};

enum setting_flags {
	SETTING_AUDIT = 1 << 0,                    /* count, but let everything pass */
	SETTING_UNKNOWN_PASS = 1 << 1,             /* pods without a verdict pass */
	SETTING_UNKNOWN_HOSTNETWORK_PASS = 1 << 2, /* those in the node's namespace pass */
	SETTING_WIRESERVER_DENY = 1 << 3,          /* pods without a verdict may not reach it */
	SETTING_NO_NODE_LISTENER = 1 << 4,         /* others have its port: who would be steered there is refused */
};

enum entry_flags {
	ENTRY_WIRESERVER_DENY = 1 << 0, /* may not reach the wire server */
	ENTRY_SHARED = 1 << 1,          /* a pod of which some container passes */
	ENTRY_AGENT = 1 << 2,           /* the agent's own pod */
};

/* Burstable and BestEffort: pods of the class Guaranteed are in kubepods itself. */
#define QOS_CGROUPS 2

struct settings {
	__u64 kubepods_id;          /* cgroup id of kubepods: callers are found from here down */
	__u64 qos_ids[QOS_CGROUPS]; /* cgroup ids below kubepods that are no pod's; 0: not there */
	__u64 node_netns;           /* cookie of the node's network namespace */
	__u32 node_addr;            /* the node listener */
	__u32 node_port;
	__u32 port_first; /* pods' listeners have their ports in this range */
	__u32 port_last;
	enum setting_flags flags;
	__u32 quota; /* open steered connections that one pod may have */
};

struct verdict_entry {
	__u64 netns_cookie; /* where the pod's listener is */
	enum verdict verdict;
	__u32 port; /* the pod's listener on 127.0.0.1; 0: the node listener */
	enum entry_flags flags;
	__u32 zero;
};

/* The client's side of a steered connection. netns_cookie is 0 for the node
 * listener, which cannot tell its callers' namespaces apart. */
struct flow_key {
	__u64 netns_cookie;
	__u32 client_addr;
	__u32 server_addr;
	__u16 client_port;
	__u16 server_port;
	__u32 zero;
};

struct flow {
	__u64 cgroup_id;
	__u64 socket_cookie;
	__u64 created_ns; /* CLOCK_MONOTONIC */
	__u32 ambiguous;  /* a second socket claimed the same key */
	__u32 accepted;   /* a listener of the agent has the connection */
};

/* Kept with a steered socket from its connect() to its end. */
struct claim {
	struct bpf_spin_lock lock; /* of counted */
	__u32 counted;             /* against the quota, until end_flow() */
	__u64 cgroup_id;
	__u64 quota_id;
	struct flow_key key; /* netns_cookie and server are set in connect() */
	__u64 recorded_ns;   /* CLOCK_MONOTONIC */
	__u32 state;
	__u32 zero;
};

enum claim_state {
	CLAIM_NONE,
	CLAIM_PENDING,    /* connect() was steered, no SYN yet */
	CLAIM_RECORDED,   /* the flow is written, it is not accepted yet */
	CLAIM_UNRECORDED, /* the flow's key is another socket's, or there was no room */
	CLAIM_ACCEPTED,   /* the agent's listener has the connection */
	CLAIM_ENDED,      /* the socket was closed before that */
	CLAIM_PASSED,     /* no flow: connect() let a caller without a verdict pass */
};

/* The agent's mark on a listening socket, which the kernel copies to the
 * connections that it accepts: the server's side of their flows' keys. */
struct tag {
	__u64 netns_cookie;
	__u32 server_addr;
	__u32 server_port;
};

/* Tells the agent that a caller has no usable verdict. */
struct unknown_event {
	__u64 cgroup_id;
	__u64 netns_cookie;
};
