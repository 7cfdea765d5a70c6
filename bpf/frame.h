// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* Which of the platform's services a packet or a frame is for.
 *
 * This is an allowlist. A frame is for none of our services only if it was read down
 * to an address that says so, or if its protocol is one that the kernel never
 * takes IP out of. Whatever else there is may be for any service: the kernel
 * unwraps more than is read here, and a parser that gives up must not let
 * pass. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "services.h"

enum service {
	SERVICE_NONE,
	SERVICE_IMDS,
	SERVICE_WIRESERVER,
	SERVICE_ANY, /* not understood: it may be for each of them */
};

/* VLAN tags that are read, beside one that the kernel has taken off already.
 * More than two are never needed; the kernel takes off any number of id 0. */
#define MAX_TAGS 3

/* Extension headers that are read in search of a routing header. */
#define MAX_EXTENSIONS 4

/* IPv4 options that are read. Hosts send one or two, and padding. */
#define MAX_OPTIONS 8
#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_LSRR 131
#define OPTION_SSRR 137

#define ETH_P_WOL 0x0842 /* Wake-on-LAN */
#define SIXTOFOUR 0x2002 /* first 16 bits of a 6to4 address */
#define LLC_SAP_SNAP 0xaa

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

struct llc_header {
	__u8 dsap;
	__u8 ssap;
	__u8 control;
};

static __always_inline enum service service_at_port(struct __sk_buff *skb, __u32 offset)
{
	__be16 port;

	if (bpf_skb_load_bytes(skb, offset + 2, &port, sizeof(port)))
		return SERVICE_WIRESERVER;
	return is_wireserver_port(port) ? SERVICE_WIRESERVER : SERVICE_NONE;
}

/* Whether the options, which stand at offset, leave the packet's destination
 * alone. A source route gives it another one after the node's rules have seen
 * the first; no other host on a network forwards those. */
static __always_inline bool plain_options(struct __sk_buff *skb, __u32 offset, __u32 length)
{
	__u8 type, size;
	__u32 at = 0;

	for (int i = 0; i < MAX_OPTIONS; i++) {
		if (at >= length)
			return true;
		if (bpf_skb_load_bytes(skb, offset + at, &type, sizeof(type)))
			return false;
		if (type == OPTION_END)
			return true;
		if (type == OPTION_NOP) {
			at++;
			continue;
		}
		if (type == OPTION_LSRR || type == OPTION_SSRR)
			return false;
		if (bpf_skb_load_bytes(skb, offset + at + 1, &size, sizeof(size)))
			return false;
		if (size < 2 || at + size > length)
			return false;
		at += size;
	}
	return at >= length;
}

/* Whether an IPv4 header has no options and is for another address: so are
 * most, and no more needs to be read of those. */
static __always_inline bool plainly_elsewhere(const struct iphdr *ip)
{
	const __u8 *version_and_length = (const void *)ip;

	return *version_and_length == 0x45 && ip->daddr != IMDS_ADDR &&
	       ip->daddr != WIRESERVER_ADDR;
}

/* ip is a copy of the IPv4 header, which stands at offset. */
static __always_inline enum service service_of_ipv4(struct __sk_buff *skb, const struct iphdr *ip,
						    __u32 offset)
{
	__u32 length = ip->ihl * 4;

	if (ip->daddr == IMDS_ADDR)
		return SERVICE_IMDS;
	if (ip->version != 4 || length < sizeof(*ip))
		return SERVICE_ANY;
	if (!plain_options(skb, offset + sizeof(*ip), length - sizeof(*ip)))
		return SERVICE_ANY;
	/* Later fragments are of no use to anybody without the first. */
	if (ip->daddr != WIRESERVER_ADDR || ip->protocol != IPPROTO_TCP ||
	    ip->frag_off & bpf_htons(0x1fff))
		return SERVICE_NONE;
	return service_at_port(skb, offset + length);
}

/* The IPv4 address that a translator (NAT64, IPv4-mapped) or an automatic
 * tunnel (ISATAP) finds in an IPv6 address. */
static __always_inline __be32 embedded(const struct in6_addr *addr)
{
	return addr->s6_addr32[3];
}

/* The address of the tunnel's other end in an address of 6to4. */
static __always_inline __be32 sixtofour(const struct in6_addr *addr)
{
	if (addr->s6_addr16[0] != bpf_htons(SIXTOFOUR))
		return 0;
	return bpf_htonl((__u32)bpf_ntohs(addr->s6_addr16[1]) << 16 | bpf_ntohs(addr->s6_addr16[2]));
}

/* Whether no routing header, which is IPv6's source route, is among the
 * extension headers. The first of them stands at offset. */
static __always_inline bool plain_extensions(struct __sk_buff *skb, __u32 offset, __u8 type)
{
	struct ipv6_opt_hdr extension;

	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (type == IPPROTO_ROUTING)
			return false;
		if (type != IPPROTO_HOPOPTS && type != IPPROTO_DSTOPTS)
			return true;
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return false;
		type = extension.nexthdr;
		offset += (extension.hdrlen + 1) * 8;
	}
	return false;
}

static __always_inline enum service service_of_ipv6(struct __sk_buff *skb, __u32 offset)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
		return SERVICE_ANY;
	if (embedded(&ip.daddr) == IMDS_ADDR || sixtofour(&ip.daddr) == IMDS_ADDR)
		return SERVICE_IMDS;
	if (!plain_extensions(skb, offset + sizeof(ip), ip.nexthdr))
		return SERVICE_ANY;
	if (embedded(&ip.daddr) != WIRESERVER_ADDR && sixtofour(&ip.daddr) != WIRESERVER_ADDR)
		return SERVICE_NONE;
	if (ip.nexthdr == IPPROTO_UDP || ip.nexthdr == IPPROTO_ICMPV6)
		return SERVICE_NONE;
	if (ip.nexthdr != IPPROTO_TCP)
		return SERVICE_WIRESERVER;
	return service_at_port(skb, offset + sizeof(ip));
}

/* The protocols that hosts speak on a link beside IP and that carry none. */
static __always_inline bool carries_no_ip(__u16 protocol)
{
	switch (protocol) {
	case ETH_P_ARP:
	case ETH_P_RARP:
	case ETH_P_PAE: /* 802.1X */
	case ETH_P_LLDP:
	case ETH_P_SLOW: /* LACP */
	case ETH_P_PAUSE:
	case ETH_P_CFM:
	case ETH_P_MRP:
	case ETH_P_1588:
	case ETH_P_TSN:
	case ETH_P_AOE:
	case ETH_P_FCOE:
	case ETH_P_FIP:
	case ETH_P_ETHERCAT:
	case ETH_P_PROFINET:
	case ETH_P_WOL:
	case ETH_P_LOOPBACK:
		return true;
	}
	return false;
}

/* Below that the field is a length, and an LLC header follows. */
static __always_inline bool is_length(__be16 protocol)
{
	return bpf_ntohs(protocol) < ETH_P_802_3_MIN;
}

/* What a link makes of the frame must be what its header says: a bridge goes
 * by the one, the IP stack by the other. veth sees to that, netkit believes
 * the socket. */
static __always_inline bool agrees_with_header(struct __sk_buff *skb)
{
	__be16 protocol;

	if (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol)))
		return false;
	return protocol == skb->protocol || (is_length(protocol) && is_length(skb->protocol));
}

/* Moves past one VLAN tag at offset. Returns false where there is none, or not
 * all of one. */
static __always_inline bool take_tag(struct __sk_buff *skb, __be16 *protocol, __u32 *offset)
{
	struct vlan_tag tag;

	if (*protocol != bpf_htons(ETH_P_8021Q) && *protocol != bpf_htons(ETH_P_8021AD))
		return false;
	if (bpf_skb_load_bytes(skb, *offset, &tag, sizeof(tag)))
		return false;
	*offset += sizeof(tag);
	*protocol = tag.protocol;
	return true;
}

/* Whether what follows the LLC header at offset is no EtherType with IP behind
 * it (RFC 1042), but, say, a bridge's or a vendor's own protocol. */
static __always_inline bool llc_carries_no_ip(struct __sk_buff *skb, __u32 offset)
{
	struct llc_header llc;
	__u8 oui[3];

	if (bpf_skb_load_bytes(skb, offset, &llc, sizeof(llc)) || llc.dsap != LLC_SAP_SNAP)
		return true;
	if (bpf_skb_load_bytes(skb, offset + sizeof(llc), oui, sizeof(oui)))
		return false;
	return oui[0] || oui[1] || oui[2];
}

static __always_inline enum service service_of_frame(struct __sk_buff *skb)
{
	__u32 offset = sizeof(struct ethhdr);
	__be16 protocol = skb->protocol;
	struct iphdr ip;

	if (!agrees_with_header(skb))
		return SERVICE_ANY;
	for (int i = 0; i < MAX_TAGS && take_tag(skb, &protocol, &offset); i++)
		;
	if (protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
			return SERVICE_ANY;
		return service_of_ipv4(skb, &ip, offset);
	}
	if (protocol == bpf_htons(ETH_P_IPV6))
		return service_of_ipv6(skb, offset);
	if (is_length(protocol))
		return llc_carries_no_ip(skb, offset) ? SERVICE_NONE : SERVICE_ANY;
	return carries_no_ip(bpf_ntohs(protocol)) ? SERVICE_NONE : SERVICE_ANY;
}
