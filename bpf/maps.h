// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
#pragma once

#include "types.h"
#include <bpf/bpf_helpers.h>

/* Every map is pinned, so that a new agent goes on where the last one ended.
 *
 * Whoever changes what is in one raises the layout (pkg/intercept/layout.go). An
 * agent of another layout, older or newer, has maps of its own beside these and
 * reads of these what all layouts have alike, for ever
 * (pkg/intercept/otherlayout.go):
 *   sidestep_flows     struct flow_key; struct flow up to accepted, to which
 *                      fields may be added behind
 *   sidestep_verdicts  the key, a cgroup id
 *   sidestep_usage     key and count
 *   links              the pins link_sockops, link_connect4 and link_connect6, and
 *                      tcx_ with an interface's index
 * Programs that follow a connection go by the claim in their own map alone, so
 * that those of two layouts run beside each other. */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_settings SEC(".maps");

/* By cgroup id of a pod, or of a container where its pod's containers differ. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct verdict_entry);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_verdicts SEC(".maps");

/* No LRU: one pod's connections must not push out another's record. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_flows SEC(".maps");

/* Open steered connections, by quota id (caller.h). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __s64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_usage SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct claim);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_claims SEC(".maps");

/* The agent's own listening sockets, and what they accept. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct tag);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_tags SEC(".maps");

/* Index: outcome * FAMILIES + family. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	/* clang-format off */
	__uint(max_entries, OUTCOMES * FAMILIES);
	/* clang-format on */
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_connects SEC(".maps");

/* Index: enum drop. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROPS);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_drops SEC(".maps");

/* The pod's cgroup id by the interface index of its link's end on the node. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sidestep_unknowns SEC(".maps");

/* A ring buffer has no value type: this keeps the event's in the BTF. */
const struct unknown_event *unused_unknown_event __attribute__((unused));
