// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* Whose a connect or a packet is. */
#pragma once

#include "maps.h"

/* Deep enough for kubepods inside the cgroup of a nested node (kind). */
#define MAX_KUBEPODS_LEVEL 16

/* kubepods/<qos>/<pod>/<container>, and without <qos> for Guaranteed pods. */
#define MAX_DEPTH 3

struct caller {
	__u64 cgroup_id; /* the container's; the pod's for a task in none of them; 0: not in a pod */
	__u64 quota_id;  /* the pod's, whose quota it uses: no cgroup that the pod may make */
	struct verdict_entry *entry;
};

static __always_inline struct settings *get_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sidestep_settings, &zero);
}

/* The cgroup of the packet's socket at a level, or without a packet that of
 * the calling task. */
static __always_inline __u64 ancestor_id(struct __sk_buff *skb, int level)
{
	if (skb)
		return bpf_skb_ancestor_cgroup_id(skb, level);
	return bpf_get_current_ancestor_cgroup_id(level);
}

/* Counted from the kernel's true root, which a cgroup namespace hides from
 * the agent; so it is found here, by the id. 0: not below kubepods. */
static __always_inline int kubepods_level(struct __sk_buff *skb, __u64 kubepods_id)
{
	for (int level = 1; level <= MAX_KUBEPODS_LEVEL; level++)
		if (ancestor_id(skb, level) == kubepods_id)
			return level;
	return 0;
}

/* How far below kubepods the pod's cgroup is. */
static __always_inline int pod_depth(struct __sk_buff *skb, const struct settings *s, int level)
{
	__u64 id = ancestor_id(skb, level + 1);

	for (int i = 0; i < QOS_CGROUPS; i++)
		if (id == s->qos_ids[i])
			return 2;
	return 1;
}

/* The verdict is looked for deepest first, since a container may have one of its
 * own. A pod whose containers differ is itself unknown. Whatever the verdict, the
 * caller is the container, which stays while its process runs: cgroups below it
 * are the process's own to make and to remove. */
static __always_inline struct caller find(struct __sk_buff *skb, const struct settings *s)
{
	struct caller caller = {};
	int level = kubepods_level(skb, s->kubepods_id);
	int pod;

	if (!level)
		return caller;
	pod = pod_depth(skb, s, level);
	caller.quota_id = ancestor_id(skb, level + pod);
	for (int depth = MAX_DEPTH; depth > 0; depth--) {
		__u64 id = ancestor_id(skb, level + depth);

		if (!id)
			continue;
		if (!caller.cgroup_id || depth > pod)
			caller.cgroup_id = id;
		caller.entry = bpf_map_lookup_elem(&sidestep_verdicts, &id);
		if (caller.entry)
			break;
	}
	return caller;
}

/* In connect() and bind() the calling task, not the socket's maker, is the
 * caller: a socket that was passed on speaks for whoever connects it. */
static __always_inline struct caller find_caller(const struct settings *s)
{
	return find(NULL, s);
}

/* A packet is that of its socket's maker: there may be no task. */
static __always_inline struct caller find_owner(struct __sk_buff *skb, const struct settings *s)
{
	return find(skb, s);
}

/* Whether a caller may not reach the wire server. */
static __always_inline bool denied_wireserver(const struct settings *s, const struct caller *caller)
{
	if (caller->entry)
		return caller->entry->flags & ENTRY_WIRESERVER_DENY;
	return s->flags & SETTING_WIRESERVER_DENY;
}
