#!/bin/sh
# An L3 DSR member: l3-member.sh ROUTER4 ROUTER6
#
# Replies go by the member's own router, never by a director. What comes in encapsulation is 20 or 40 bytes longer, so the
# member advertises a smaller MSS (RFC 9293, 3.7.1): 1500 - 20 - 40 for IPv4 in IPv4, 1500 - 40 - 60 for IPv6 in IPv6.
set -eu
# shellcheck source=vips.sh
. /etc/onward/vips.sh
on_loopback 198.51.100.10 2001:db8:f::10
ip route replace default via "$1" advmss 1440
ip -6 route replace default via "$2" advmss 1400
setsid --fork onward decap run --interface eth1 --from 203.0.113.0/26 --from 2001:db8:2::/64 \
	--vip 198.51.100.10 --vip 2001:db8:f::10 </dev/null >/run/decap.log 2>&1
