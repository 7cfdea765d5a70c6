// SPDX-License-Identifier: Apache-2.0 OR BSD-2-Clause OR GPL-2.0-only
/* The addresses that Azure's platform answers at on every VM. */
#pragma once

#include <bpf/bpf_endian.h>

/* The instance metadata service. */
#define IMDS_ADDR bpf_htonl(0xa9fea9fe) /* 169.254.169.254 */
#define IMDS_PORT bpf_htons(80)

/* The wire server: goal state and certificates (80), host plugin (32526). Its
 * DNS (53) and DHCP are no concern of ours. */
#define WIRESERVER_ADDR bpf_htonl(0xa83f8110) /* 168.63.129.16 */

static __always_inline bool is_wireserver_port(__u32 port)
{
	return port == bpf_htons(80) || port == bpf_htons(32526);
}
