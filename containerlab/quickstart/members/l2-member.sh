#!/bin/sh
# An L2 DSR member: l2-member.sh ROUTER4 ROUTER6
#
# Packets for the VIP come with this member's MAC address; nothing is added to them, and the usual MSS is right.
set -eu
# shellcheck source=vips.sh
. /etc/onward/vips.sh
on_loopback 198.51.100.20 2001:db8:f::20
ip route replace default via "$1"
ip -6 route replace default via "$2"
