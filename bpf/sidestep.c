// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* Steers connects to the instance metadata service from pods to the agent,
 * and records who made them. Attached at the kubepods cgroup.
 *
 * connect4/6      decide by the caller's cgroup; rewrite, refuse or leave alone
 * sockops         write the flow just before the SYN, take it back at the end
 * sock_release    take it back where sockops was kept from it
 * gate            let no payload pass before the agent has the connection (gate.h)
 * getpeername4/6  keep the rewritten destination out of the application's sight
 * bind4/6         keep the node listener's port for the agent (bind.h)
 * egress, link    drop what evades connect() (guard.h)
 *
 * Helpers are those that Linux 5.15 has for each program type. */
#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/socket.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "services.h"

#define LOOPBACK bpf_htonl(INADDR_LOOPBACK)
#define V4_MAPPED bpf_htonl(0x0000ffff) /* third word of ::ffff:a.b.c.d */
#define SOCK_STREAM 1

/* What a connect or bind hook returns; the application sees EPERM. */
#define REFUSE 0
#define ALLOW 1

/* Socket options, from headers that are not the kernel's own. */
#define SOL_TCP 6

/* How long a client waits that met somebody else, in milliseconds. */
#define IMPOSTOR_TIMEOUT_MS 1000

#include "bind.h"
#include "gate.h"
#include "guard.h"

char _license[] SEC("license") = "Dual BSD/GPL";

static __always_inline void count(enum outcome outcome, enum family family)
{
	__u32 index = outcome * FAMILIES + family;
	__u64 *n = bpf_map_lookup_elem(&sidestep_connects, &index);

	if (n)
		(*n)++;
}

/* Whether the agent's own socket listens on addr:port in the caller's
 * namespace, so that no other process can take its place while it is away. */
static __always_inline bool agent_listens(struct bpf_sock_addr *ctx, __u32 addr, __u32 port)
{
	struct bpf_sock_tuple tuple = {
		.ipv4 = {
			.saddr = addr,
			.daddr = addr,
			.dport = bpf_htons(port),
		},
	};
	struct bpf_sock *sk;
	bool tagged;

	sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	tagged = bpf_sk_storage_get(&sidestep_tags, sk, NULL, 0) != NULL;
	bpf_sk_release(sk);
	return tagged;
}

static __always_inline bool quota_left(const struct settings *s, __u64 quota_id)
{
	__s64 *n = bpf_map_lookup_elem(&sidestep_usage, &quota_id);

	return !n || *n < (__s64)s->quota;
}

static __always_inline void tell_agent(__u64 cgroup_id, __u64 netns_cookie)
{
	struct unknown_event event = {
		.cgroup_id = cgroup_id,
		.netns_cookie = netns_cookie,
	};

	/* A full buffer loses nothing: the agent scans the cgroups anyway. */
	bpf_ringbuf_output(&sidestep_unknowns, &event, sizeof(event), 0);
}

static __always_inline enum outcome decide(const struct settings *s, const struct caller *caller,
					   __u64 netns_cookie)
{
	const struct verdict_entry *entry = caller->entry;

	if (entry) {
		/* A steered pod in another namespace than its listener (a
		 * restarted sandbox, a nested namespace) is held, whatever
		 * the settings say of unknown pods. */
		if (entry->verdict == VERDICT_STEER && entry->port &&
		    entry->netns_cookie != netns_cookie)
			return OUTCOME_UNKNOWN;
		/* Masked for the verifier: counters are indexed by it. */
		return entry->verdict & 3;
	}
	if (!caller->cgroup_id) /* kubepods' socket, but a task from elsewhere */
		return OUTCOME_REFUSED;
	if (netns_cookie == s->node_netns) {
		if (s->flags & SETTING_UNKNOWN_HOSTNETWORK_PASS)
			return OUTCOME_PASS;
	} else if (s->flags & SETTING_UNKNOWN_PASS) {
		return OUTCOME_PASS;
	}
	return OUTCOME_UNKNOWN;
}

/* Leaves a claim with the socket: a pending one is turned into a flow by
 * sockops. The kernel asks the hooks about unconnected sockets alone: a flow
 * that the socket still has is one whose end sockops was kept from. */
static __always_inline bool make_claim(struct bpf_sock_addr *ctx, const struct caller *caller,
				       const struct flow_key *key, enum claim_state state)
{
	struct bpf_sock *sk = ctx->sk;
	struct claim *claim;

	if (!sk)
		return false;
	claim = bpf_sk_storage_get(&sidestep_claims, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!claim)
		return false;
	end_flow(claim, bpf_get_socket_cookie(ctx));
	claim->cgroup_id = caller->cgroup_id;
	claim->quota_id = caller->quota_id;
	claim->key = *key;
	claim->state = state;
	return true;
}

/* Decides about a connect to the metadata service. When it returns
 * OUTCOME_STEER or OUTCOME_UNKNOWN, *key has the destination to write. */
static __always_inline enum outcome connect_imds(struct bpf_sock_addr *ctx,
						 const struct settings *s, struct flow_key *key)
{
	struct caller caller = find_caller(s);
	__u64 netns_cookie = bpf_get_netns_cookie(ctx);
	enum outcome outcome = decide(s, &caller, netns_cookie);
	struct bpf_sock *sk = ctx->sk;

	if (s->flags & SETTING_AUDIT)
		return outcome;
	if (outcome == OUTCOME_PASS && !caller.entry)
		make_claim(ctx, &caller, key, CLAIM_PASSED); /* for the guard */
	if (outcome != OUTCOME_STEER && outcome != OUTCOME_UNKNOWN)
		return outcome;
	/* A socket bound to a device could repeat another's 4-tuple. */
	if (!sk || sk->bound_dev_if)
		return OUTCOME_REFUSED;
	if (outcome == OUTCOME_UNKNOWN)
		tell_agent(caller.cgroup_id, netns_cookie);
	if (outcome == OUTCOME_STEER && caller.entry && caller.entry->port) {
		if (!agent_listens(ctx, LOOPBACK, caller.entry->port))
			return OUTCOME_REFUSED;
		key->netns_cookie = netns_cookie;
		key->server_addr = LOOPBACK;
		key->server_port = caller.entry->port;
	} else {
		if (s->flags & SETTING_NO_NODE_LISTENER)
			return OUTCOME_REFUSED;
		/* From other namespaces the node listener cannot be looked up. */
		if (netns_cookie == s->node_netns &&
		    !agent_listens(ctx, s->node_addr, s->node_port))
			return OUTCOME_REFUSED;
		key->server_addr = s->node_addr;
		key->server_port = s->node_port;
	}
	if (!quota_left(s, caller.quota_id) || !make_claim(ctx, &caller, key, CLAIM_PENDING))
		return OUTCOME_REFUSED;
	return outcome;
}

/* Nobody but a steered connect has business at a listener of ours. */
static __always_inline bool dials_listener(struct bpf_sock_addr *ctx, const struct settings *s,
					   __u32 addr)
{
	__u32 port = bpf_ntohs(ctx->user_port);

	if (addr == s->node_addr)
		return port == s->node_port;
	/* INADDR_ANY connects to loopback. */
	if (addr != LOOPBACK && addr != INADDR_ANY)
		return false;
	if (port < s->port_first || port > s->port_last)
		return false;
	return agent_listens(ctx, LOOPBACK, port);
}

static __always_inline bool dials_denied_wireserver(struct bpf_sock_addr *ctx,
						    const struct settings *s, __u32 addr)
{
	struct caller caller;

	if (addr != WIRESERVER_ADDR || !is_wireserver_port(ctx->user_port))
		return false;
	caller = find_caller(s);
	return denied_wireserver(s, &caller);
}

/* The story of one connect, the same for both families. Returns ALLOW or
 * REFUSE; a destination in *key that is not zero is to be written. */
static __always_inline int on_connect(struct bpf_sock_addr *ctx, __u32 addr, enum family family,
				      struct flow_key *key)
{
	struct settings *s = get_settings();
	enum outcome outcome;

	if (!s)
		return REFUSE;
	if (addr == IMDS_ADDR && ctx->user_port == IMDS_PORT)
		outcome = connect_imds(ctx, s, key);
	else if (dials_denied_wireserver(ctx, s, addr))
		outcome = OUTCOME_WIRESERVER;
	else if (dials_listener(ctx, s, addr))
		outcome = OUTCOME_REFUSED;
	else
		return ALLOW;
	count(outcome, family);
	if (s->flags & SETTING_AUDIT)
		return ALLOW;
	return outcome >= OUTCOME_DENY ? REFUSE : ALLOW;
}

/* Only these addresses can concern us; everything else leaves here. */
static __always_inline bool concerns_us(__u32 addr)
{
	return (addr & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000) || addr == LOOPBACK ||
	       addr == INADDR_ANY || addr == WIRESERVER_ADDR;
}

static __always_inline bool is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
}

SEC("cgroup/connect4")
int sidestep_connect4(struct bpf_sock_addr *ctx)
{
	struct flow_key key = {};
	__u32 addr = ctx->user_ip4;
	int ret;

	if (!concerns_us(addr) || !is_tcp(ctx))
		return ALLOW;
	ret = on_connect(ctx, addr, FAMILY_IPV4, &key);
	if (ret == ALLOW && key.server_port) {
		ctx->user_ip4 = key.server_addr;
		ctx->user_port = bpf_htons(key.server_port);
	}
	return ret;
}

/* Dual-stack sockets (Java, .NET, Node) reach IPv4 as ::ffff:a.b.c.d. The
 * unspecified address :: becomes 127.0.0.1 on a socket bound to IPv4. */
SEC("cgroup/connect6")
int sidestep_connect6(struct bpf_sock_addr *ctx)
{
	struct flow_key key = {};
	__u32 addr = ctx->user_ip6[3];
	int ret;

	if (ctx->user_ip6[0] || ctx->user_ip6[1])
		return ALLOW;
	if (ctx->user_ip6[2] != V4_MAPPED && (ctx->user_ip6[2] || addr))
		return ALLOW;
	if (!concerns_us(addr) || !is_tcp(ctx))
		return ALLOW;
	ret = on_connect(ctx, addr, FAMILY_IPV6, &key);
	if (ret == ALLOW && key.server_port) {
		ctx->user_ip6[3] = key.server_addr;
		ctx->user_port = bpf_htons(key.server_port);
	}
	return ret;
}

/* Without the callback the end of the socket goes unseen. Another's program
 * that runs after ours may set other flags, so it is asked for whenever it can
 * be; sock_release stands behind it. */
static __always_inline int ask_for_end(struct bpf_sock_ops *ctx)
{
	return bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags |
						      BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* Runs in tcp_connect(), before the SYN: the record is there before anybody
 * can accept the connection. */
static __always_inline void on_syn(struct bpf_sock_ops *ctx, struct claim *claim)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	bool pending = claim->state == CLAIM_PENDING;

	if (claim->state == CLAIM_PASSED)
		return;
	end_flow(claim, cookie); /* an earlier connection's, whose end was not seen */
	/* Once only, and only for the connection that it was made for. */
	claim->state = CLAIM_NONE;
	if (!pending || ctx->remote_ip4 != claim->key.server_addr ||
	    bpf_ntohl(ctx->remote_port) != claim->key.server_port)
		return;
	claim->state = CLAIM_PENDING;
	claim->key.client_addr = ctx->local_ip4;
	claim->key.client_port = ctx->local_port;
	if (!ask_for_end(ctx))
		record(claim, cookie);
}

/* The client has its SYN-ACK. If that was not the agent's, nothing that is
 * sent will arrive: the application learns it soon. */
static __always_inline void on_established(struct bpf_sock_ops *ctx, struct claim *claim)
{
	int timeout = IMPOSTOR_TIMEOUT_MS;

	if (claim->state == CLAIM_NONE || claim->state == CLAIM_PASSED)
		return;
	ask_for_end(ctx);
	if (!is_accepted(claim))
		bpf_setsockopt(ctx, SOL_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
}

/* A listener has a new connection: with SYN cookies the first that is known of
 * it. */
static __always_inline void on_accept(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct tag *tag = bpf_sk_storage_get(&sidestep_tags, sk, NULL, 0);

	if (tag)
		accept_flow(tag, ctx->remote_ip4, bpf_ntohl(ctx->remote_port));
}

SEC("sockops")
int sidestep_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk;
	struct claim *claim;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ctx->op != BPF_SOCK_OPS_STATE_CB &&
	    ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	sk = ctx->sk;
	if (!sk)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		on_accept(ctx, sk);
		return 1;
	}
	claim = bpf_sk_storage_get(&sidestep_claims, sk, NULL, 0);
	if (!claim)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		on_syn(ctx, claim);
	else if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		on_established(ctx, claim);
	else if (ctx->args[1] == BPF_TCP_CLOSE)
		end_flow(claim, bpf_get_socket_cookie(ctx));
	return 1;
}

/* The last descriptor of the socket is closed. */
SEC("cgroup/sock_release")
int sidestep_release(struct bpf_sock *ctx)
{
	struct claim *claim = bpf_sk_storage_get(&sidestep_claims, ctx, NULL, 0);

	if (claim)
		end_flow(claim, bpf_get_socket_cookie(ctx));
	return 1;
}

/* The address to show for the socket's peer: the metadata service while it
 * still is what connect() made of it. */
static __always_inline bool hides_peer(struct bpf_sock_addr *ctx, __u32 addr)
{
	struct bpf_sock *sk = ctx->sk;
	struct claim *claim;

	if (!sk)
		return false;
	claim = bpf_sk_storage_get(&sidestep_claims, sk, NULL, 0);
	return claim && claim->key.server_addr == addr &&
	       claim->key.server_port == bpf_ntohs(ctx->user_port);
}

SEC("cgroup/getpeername4")
int sidestep_getpeername4(struct bpf_sock_addr *ctx)
{
	if (hides_peer(ctx, ctx->user_ip4)) {
		ctx->user_ip4 = IMDS_ADDR;
		ctx->user_port = IMDS_PORT;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int sidestep_getpeername6(struct bpf_sock_addr *ctx)
{
	if (ctx->user_ip6[2] == V4_MAPPED && hides_peer(ctx, ctx->user_ip6[3])) {
		ctx->user_ip6[3] = IMDS_ADDR;
		ctx->user_port = IMDS_PORT;
	}
	return 1;
}
