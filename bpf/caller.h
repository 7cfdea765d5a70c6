// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
#pragma once

#include "maps.h"

/* Deep enough for kubepods inside the cgroup of a nested node (kind). */
#define MAX_KUBEPODS_LEVEL 16

/* kubepods/<qos>/<pod>/<container>, and without <qos> for Guaranteed pods. */
#define MAX_DEPTH 3

struct caller {
	__u64 cgroup_id; /* of the verdict found, else the deepest one; 0: not in a pod */
	struct verdict_entry *entry;
};

/* Counted from the kernel's true root, which a cgroup namespace hides from
 * the agent; so it is found here, by the id. 0: the task is not below kubepods. */
static __always_inline int kubepods_level(__u64 kubepods_id)
{
	for (int level = 1; level <= MAX_KUBEPODS_LEVEL; level++)
		if (bpf_get_current_ancestor_cgroup_id(level) == kubepods_id)
			return level;
	return 0;
}

/* The calling task, not the socket's maker, is the caller: a socket that was
 * passed on speaks for whoever connects it. Deepest first, since a container
 * may have a verdict of its own. */
static __always_inline struct caller find_caller(const struct settings *s)
{
	struct caller caller = {};
	int level = kubepods_level(s->kubepods_id);

	if (!level)
		return caller;
	for (int depth = MAX_DEPTH; depth > 0; depth--) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level + depth);

		if (!id)
			continue;
		if (!caller.cgroup_id)
			caller.cgroup_id = id;
		caller.entry = bpf_map_lookup_elem(&sidestep_verdicts, &id);
		if (caller.entry) {
			caller.cgroup_id = id;
			break;
		}
	}
	return caller;
}
