// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* The guard: drops what goes to the metadata service by other ways than a
 * connect() that our hook saw.
 *
 * egress  at the kubepods cgroup: datagrams, raw sockets, and connections that
 *         were opened before the pod was steered
 * link    at the node's end of a pod's link: AF_PACKET, and pods whose network
 *         stack is not the kernel's (gVisor, Kata) */
#pragma once

#include <linux/pkt_cls.h>

#include "caller.h"
#include "frame.h"

/* What a cgroup_skb program returns; the sender sees EPERM. */
#define DROP 0
#define SEND 1

static __always_inline void count_drop(enum drop drop)
{
	__u32 index = drop;
	__u64 *n = bpf_map_lookup_elem(&sidestep_drops, &index);

	if (n)
		(*n)++;
}

/* Whether connect() let this socket pass though its pod had no verdict. The
 * pod's namespace, which that depends on, cannot be seen here. */
static __always_inline bool was_passed(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct claim *claim;

	if (!sk)
		return false;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return false;
	claim = bpf_sk_storage_get(&sidestep_claims, sk, NULL, 0);
	return claim && claim->state == CLAIM_PASSED;
}

static __always_inline bool may_send(struct __sk_buff *skb, enum service service)
{
	struct settings *s = get_settings();
	struct caller owner;

	/* Else the compiler keeps what caller.h does without a packet, with
	 * helpers that this type of program does not have. */
	__builtin_assume(skb != NULL);
	if (!s)
		return false;
	if (s->flags & SETTING_AUDIT)
		return true;
	owner = find_owner(skb, s);
	if (service != SERVICE_IMDS && denied_wireserver(s, &owner))
		return false;
	if (service == SERVICE_WIRESERVER)
		return true;
	if (!owner.entry)
		return was_passed(skb);
	return owner.entry->verdict == VERDICT_PASS;
}

SEC("cgroup_skb/egress")
int sidestep_egress(struct __sk_buff *skb)
{
	const struct iphdr *ip = (void *)(long)skb->data;
	struct iphdr header;
	enum service service;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return SEND;
	/* The kernel keeps the IP header of what it sends in one piece. */
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return DROP;
	if (plainly_elsewhere(ip))
		return SEND;
	header = *ip;
	service = service_of_ipv4(skb, &header, 0);
	if (service == SERVICE_NONE || may_send(skb, service))
		return SEND;
	count_drop(DROP_SOCKET);
	return DROP;
}

/* Most frames: an untagged packet, its header in one piece, for somebody else. */
static __always_inline bool is_ordinary(struct __sk_buff *skb)
{
	const struct ethhdr *eth = (void *)(long)skb->data;
	const struct iphdr *ip = (void *)(eth + 1);

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return false;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	return eth->h_proto == bpf_htons(ETH_P_IP) && plainly_elsewhere(ip);
}

static __always_inline bool may_reach(enum service service, bool passes, bool wireserver_denied)
{
	if (service != SERVICE_WIRESERVER && !passes)
		return false;
	return service == SERVICE_IMDS || !wireserver_denied;
}

/* Every packet of a link is its pod's. Which container sent it cannot be
 * seen: where one of them passes, all do. */
static __always_inline bool may_leave(struct __sk_buff *skb, enum service service)
{
	struct settings *s = get_settings();
	struct verdict_entry *entry;
	__u32 link = skb->ifindex;
	__u64 *pod;

	if (!s)
		return false;
	if (s->flags & SETTING_AUDIT)
		return true;
	pod = bpf_map_lookup_elem(&sidestep_links, &link);
	if (!pod)
		return false;
	entry = bpf_map_lookup_elem(&sidestep_verdicts, pod);
	if (!entry)
		return may_reach(service, s->flags & SETTING_UNKNOWN_PASS,
				 s->flags & SETTING_WIRESERVER_DENY);
	return may_reach(service, entry->verdict == VERDICT_PASS || entry->flags & ENTRY_SHARED,
			 entry->flags & ENTRY_WIRESERVER_DENY);
}

/* Tells the second line (pkg/routeguard) over which link of a pod a packet
 * came, also where a bridge hides that from routing. No sender can set it: a
 * veth pair clears the priority on the way. The four bits that queueing
 * disciplines and VLANs go by stay 0, and no discipline has a handle 5…. */
#define STAMP(ifindex) (0x50000000 | ((ifindex) << 4 & 0x0ffffff0))

/* Others' programs on the link have their say about what is not dropped. */
SEC("tc")
int sidestep_link(struct __sk_buff *skb)
{
	enum service service;

	/* Every packet: it is not known yet where DNAT will send it. */
	skb->priority = STAMP(skb->ifindex);
	if (is_ordinary(skb))
		return TC_ACT_UNSPEC;
	service = service_of_frame(skb);
	if (service == SERVICE_NONE || may_leave(skb, service))
		return TC_ACT_UNSPEC;
	count_drop(DROP_PACKET);
	return TC_ACT_SHOT;
}
