#!/bin/sh
# A member: member.sh R1-4 R2-4 R1-6 R2-6 [VIP...], with the routers' addresses on its segment, and further VIPs for L2 DSR
#
# Replies go to a client by the client's own router, never by a director. What comes in encapsulation is 20 bytes longer, so
# the member advertises a smaller MSS (RFC 9293, 3.7.1): 1500 - 20 - 40 for IPv4 in IPv4, 1500 - 20 - 60 for IPv6 in IPv4.
set -eu
ip route replace 192.0.2.0/26 via "$1" advmss 1440
ip route replace 192.0.2.64/26 via "$2" advmss 1440
ip route replace default via "$1" advmss 1440
ip -6 route replace 2001:db8:1::/64 via "$3" advmss 1420
ip -6 route replace 2001:db8:2::/64 via "$4" advmss 1420
ip -6 route replace default via "$3" advmss 1420
shift 4
for vip in 198.51.100.10 "$@"; do
	ip address replace "$vip/32" dev lo scope link
done
ip -6 address replace 2001:db8:f::10/128 dev lo nodad
setsid --fork onward decap run --interface eth1 --from 203.0.113.0/26 --vip 198.51.100.10 --vip 2001:db8:f::10 \
	</dev/null >/run/decap.log 2>&1
