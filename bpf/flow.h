// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* The record of a steered connection, from the SYN to the socket's end. */
#pragma once

#include "caller.h"

/* The agent removes a record when it accepts the connection. Others that
 * were not taken are removed after five minutes (pkg/intercept/flows.go), so that
 * a record that is missing later than this proves nothing. */
#define TAKEN_WITHIN_NS (4 * 60 * 1000000000ULL)

static __always_inline void use_quota(__u64 quota_id, __s64 delta)
{
	__s64 zero = 0, *n = bpf_map_lookup_elem(&sidestep_usage, &quota_id);

	if (!n) {
		bpf_map_update_elem(&sidestep_usage, &quota_id, &zero, BPF_NOEXIST);
		n = bpf_map_lookup_elem(&sidestep_usage, &quota_id);
	}
	if (n)
		__sync_fetch_and_add(n, delta);
}

/* Writes the flow of a claim whose key is complete. */
static __always_inline void record(struct claim *claim, __u64 socket_cookie)
{
	struct flow flow = {
		.cgroup_id = claim->cgroup_id,
		.socket_cookie = socket_cookie,
		.created_ns = bpf_ktime_get_ns(),
	};
	struct flow *other;

	claim->counted = 1;
	claim->recorded_ns = flow.created_ns;
	use_quota(claim->quota_id, 1);
	if (!bpf_map_update_elem(&sidestep_flows, &claim->key, &flow, BPF_NOEXIST)) {
		claim->state = CLAIM_RECORDED;
		return;
	}
	claim->state = CLAIM_UNRECORDED;
	/* Two live sockets claim one key: neither is believed. */
	other = bpf_map_lookup_elem(&sidestep_flows, &claim->key);
	if (other)
		other->ambiguous = 1;
}

/* Gives back what a connection used, once, whoever sees its end first. */
static __always_inline void end_flow(struct claim *claim, __u64 socket_cookie)
{
	struct flow *flow;
	__u32 counted;

	bpf_spin_lock(&claim->lock);
	counted = claim->counted;
	claim->counted = 0;
	bpf_spin_unlock(&claim->lock);
	if (!counted)
		return;
	/* First this: a missing record would say that it was accepted. */
	if (claim->state != CLAIM_ACCEPTED)
		claim->state = CLAIM_ENDED;
	use_quota(claim->quota_id, -1);
	flow = bpf_map_lookup_elem(&sidestep_flows, &claim->key);
	if (flow && flow->socket_cookie == socket_cookie)
		bpf_map_delete_elem(&sidestep_flows, &claim->key);
}

/* Notes that the listener with this tag has the client's connection. */
static __always_inline void accept_flow(const struct tag *tag, __u32 client_addr, __u16 client_port)
{
	struct flow_key key = {
		.netns_cookie = tag->netns_cookie,
		.client_addr = client_addr,
		.server_addr = tag->server_addr,
		.client_port = client_port,
		.server_port = tag->server_port,
	};
	struct flow *flow = bpf_map_lookup_elem(&sidestep_flows, &key);

	if (flow)
		flow->accepted = 1;
}

/* Whether the agent has the connection that the claim is for. */
static __always_inline bool is_accepted(struct claim *claim)
{
	struct flow *flow;

	if (claim->state == CLAIM_ACCEPTED)
		return true;
	if (claim->state == CLAIM_ENDED)
		return false;
	flow = bpf_map_lookup_elem(&sidestep_flows, &claim->key);
	if (flow && !flow->accepted)
		return false;
	if (!flow) {
		/* The agent has taken it, or the socket's end has. */
		if (bpf_ktime_get_ns() - claim->recorded_ns > TAKEN_WITHIN_NS)
			return false;
		if (*(volatile __u32 *)&claim->state != CLAIM_RECORDED)
			return false;
	}
	claim->state = CLAIM_ACCEPTED;
	return true;
}
