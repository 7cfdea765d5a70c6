// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* Keeps the node listener's port for the agent. Held pods are steered there
 * from namespaces in which connect() cannot look up who listens, so while no
 * agent runs no pod of the node's network may take its place. */
#pragma once

#include "caller.h"

static __always_inline bool may_bind(struct bpf_sock_addr *ctx, __u32 addr)
{
	struct settings *s = get_settings();
	struct caller caller;

	if (!s)
		return true;
	if (bpf_ntohs(ctx->user_port) != s->node_port)
		return true;
	if (addr != s->node_addr && addr != INADDR_ANY)
		return true;
	if ((s->flags & SETTING_AUDIT) || bpf_get_netns_cookie(ctx) != s->node_netns)
		return true;
	caller = find_caller(s);
	return caller.entry && (caller.entry->flags & ENTRY_AGENT);
}

SEC("cgroup/bind4")
int sidestep_bind4(struct bpf_sock_addr *ctx)
{
	return may_bind(ctx, ctx->user_ip4) ? ALLOW : REFUSE;
}

/* :: takes the port of every IPv4 address as well. */
SEC("cgroup/bind6")
int sidestep_bind6(struct bpf_sock_addr *ctx)
{
	if (ctx->user_ip6[0] || ctx->user_ip6[1])
		return ALLOW;
	if (ctx->user_ip6[2] != V4_MAPPED && (ctx->user_ip6[2] || ctx->user_ip6[3]))
		return ALLOW;
	return may_bind(ctx, ctx->user_ip6[3]) ? ALLOW : REFUSE;
}
