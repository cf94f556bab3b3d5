/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Does nothing. A veth whose peer has an XDP program, even this one, takes frames of XDP programs.
 */
#include "bpf.h"

SEC("xdp.frags") int leave_alone(struct xdp_md *ctx)
{
	return ctx ? XDP_PASS : XDP_DROP;
}

char licence[] SEC("license") = "GPL";
