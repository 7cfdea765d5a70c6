// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* The guard: drops what goes to the metadata service by other ways than a
 * connect() that our hook saw.
 *
 * egress  at the kubepods cgroup: datagrams, raw sockets, and connections that
 *         were opened before the pod was steered
 * link    at the node's end of a pod's link: AF_PACKET, and pods whose network
 *         stack is not the kernel's (gVisor, Kata) */
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

#include "caller.h"
#include "services.h"

/* What a cgroup_skb program returns; the sender sees EPERM. */
#define DROP 0
#define SEND 1

/* VLAN tags that may stand before the IP header. The kernel takes off two at
 * most for a link without VLAN devices. */
#define MAX_TAGS 3

enum service { SERVICE_NONE, SERVICE_IMDS, SERVICE_WIRESERVER };

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

static __always_inline bool has_ports(const struct iphdr *ip)
{
	/* Later fragments are of no use to anybody without the first. */
	return ip->protocol == IPPROTO_TCP && !(ip->frag_off & bpf_htons(0x1fff));
}

/* Which of the platform's services the packet is for. ip is a copy of its IPv4
 * header, which stands at offset. */
static __always_inline enum service service_of(struct __sk_buff *skb, const struct iphdr *ip,
					       __u32 offset)
{
	__be16 port;

	if (ip->daddr == IMDS_ADDR)
		return SERVICE_IMDS;
	if (ip->daddr != WIRESERVER_ADDR || !has_ports(ip))
		return SERVICE_NONE;
	if (bpf_skb_load_bytes(skb, offset + ip->ihl * 4 + 2, &port, sizeof(port)))
		return SERVICE_NONE;
	return is_wireserver_port(port) ? SERVICE_WIRESERVER : SERVICE_NONE;
}

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

	if (!s)
		return false;
	if (s->flags & SETTING_AUDIT)
		return true;
	owner = find_owner(skb, s);
	if (service == SERVICE_WIRESERVER)
		return !denied_wireserver(s, &owner);
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
	if (ip->daddr != IMDS_ADDR && ip->daddr != WIRESERVER_ADDR)
		return SEND;
	header = *ip;
	service = service_of(skb, &header, 0);
	if (service == SERVICE_NONE || may_send(skb, service))
		return SEND;
	count_drop(DROP_SOCKET);
	return DROP;
}

/* Where the IPv4 header begins in the frame, 0 if there is none. A frame may
 * bear tags that the kernel will ignore. */
static __always_inline __u32 find_ip(struct __sk_buff *skb)
{
	__u32 offset = sizeof(struct ethhdr);
	__be16 protocol = skb->protocol;
	struct vlan_tag tag;

	for (int i = 0; i < MAX_TAGS; i++) {
		if (protocol == bpf_htons(ETH_P_IP))
			return offset;
		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			return 0;
		if (bpf_skb_load_bytes(skb, offset, &tag, sizeof(tag)))
			return 0;
		offset += sizeof(tag);
		protocol = tag.protocol;
	}
	return protocol == bpf_htons(ETH_P_IP) ? offset : 0;
}

/* Most packets: untagged, their header in one piece, for somebody else. */
static __always_inline bool plainly_elsewhere(struct __sk_buff *skb)
{
	const struct iphdr *ip = (void *)(long)skb->data + sizeof(struct ethhdr);

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return false;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return false;
	return ip->daddr != IMDS_ADDR && ip->daddr != WIRESERVER_ADDR;
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
	if (!entry && service == SERVICE_WIRESERVER)
		return !(s->flags & SETTING_WIRESERVER_DENY);
	if (!entry)
		return s->flags & SETTING_UNKNOWN_PASS;
	if (service == SERVICE_WIRESERVER)
		return !(entry->flags & ENTRY_WIRESERVER_DENY);
	return entry->verdict == VERDICT_PASS || entry->flags & ENTRY_SHARED;
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
	struct iphdr ip;
	enum service service;
	__u32 offset;

	/* Every packet: nobody knows yet where DNAT will send it. */
	skb->priority = STAMP(skb->ifindex);
	if (plainly_elsewhere(skb))
		return TC_ACT_UNSPEC;
	offset = find_ip(skb);
	if (!offset || bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return TC_ACT_UNSPEC;
	service = service_of(skb, &ip, offset);
	if (service == SERVICE_NONE || may_leave(skb, service))
		return TC_ACT_UNSPEC;
	count_drop(DROP_PACKET);
	return TC_ACT_SHOT;
}
