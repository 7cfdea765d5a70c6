// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* The gate: no payload passes on a steered connection, in either direction,
 * before a listener of the agent has it. The connect hook has seen who listens,
 * but not who receives: destination translation (hostPort, NodePort, a Service)
 * comes later. So sockets are compared, and never packets' addresses.
 *
 * A flow is accepted when the agent's listener answers its SYN: the SYN-ACK is
 * seen here as a packet of the tagged listener, before it leaves. With SYN
 * cookies it is no flow's packet, and the connection's own callback (sockops) or
 * the agent, which takes the record, says the same a little later; what the
 * client sent meanwhile is sent again by its kernel.
 *
 * Attached at kubepods, and egress also at the cgroup of an agent elsewhere. */
#pragma once

#include <linux/ip.h>
#include <linux/tcp.h>

#include "flow.h"
#include "guard.h"

/* Listeners of the agent are on loopback and at a link-local address. */
static __always_inline bool may_be_listener(__u32 addr)
{
	return addr == LOOPBACK || (addr & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
}

/* A listener's only packets are its SYN-ACKs. */
static __always_inline void see_answer(struct __sk_buff *skb, struct bpf_sock *listener)
{
	struct bpf_sock *sk = bpf_sk_fullsock(listener);
	struct iphdr ip;
	struct tcphdr tcp;
	struct tag *tag;

	if (!sk)
		return;
	tag = bpf_sk_storage_get(&sidestep_tags, sk, NULL, 0);
	if (!tag || bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) ||
	    bpf_skb_load_bytes(skb, ip.ihl * 4, &tcp, sizeof(tcp)))
		return;
	accept_flow(tag, ip.daddr, bpf_ntohs(tcp.dest));
}

static __always_inline bool has_payload(struct __sk_buff *skb)
{
	__u8 version_and_ihl, data_offset;
	__u32 header;

	if (bpf_skb_load_bytes(skb, 0, &version_and_ihl, 1))
		return true;
	header = (version_and_ihl & 0xf) * 4;
	if (bpf_skb_load_bytes(skb, header + 12, &data_offset, 1))
		return true;
	/* Not the IP header's total length, which may be 0 (BIG TCP). */
	return skb->len > header + (data_offset >> 4) * 4;
}

/* What the gate does with a packet of a socket that may have been steered. */
static __always_inline int pass_gate(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct claim *claim;

	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return SEND;
	claim = bpf_sk_storage_get(&sidestep_claims, sk, NULL, 0);
	if (!claim || claim->state == CLAIM_NONE || claim->state == CLAIM_PASSED)
		return SEND;
	if (is_accepted(claim) || !has_payload(skb))
		return SEND;
	count_drop(DROP_GATE);
	return DROP;
}

SEC("cgroup_skb/egress")
int sidestep_gate_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u32 peer;

	if (skb->protocol != bpf_htons(ETH_P_IP) || !sk)
		return SEND;
	peer = sk->dst_ip4;
	if (may_be_listener(peer))
		return pass_gate(skb, sk);
	if (!peer && sk->state == BPF_TCP_LISTEN)
		see_answer(skb, sk);
	return SEND;
}

SEC("cgroup_skb/ingress")
int sidestep_gate_ingress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (skb->protocol != bpf_htons(ETH_P_IP) || !sk || !may_be_listener(sk->dst_ip4))
		return SEND;
	return pass_gate(skb, sk);
}
