#!/bin/sh
# What makes a machine a member: member.sh l2|l3 ROUTER VIP...
#
# The VIPs are on its loopback interface, and replies go by its own router, never by a director. For L3 DSR packets come in
# a tunnel, from the directors' segment; what comes so is 20 (IPv4) or 40 (IPv6) bytes longer, so it advertises a smaller
# MSS to clients (RFC 9293, 3.7.1).
set -eu
how=$1 router=$2
shift 2
family=-4 mss=1440 directors=203.0.113.0/26
case $router in *:*) family=-6 mss=1400 directors=2001:db8:2::/64 ;; esac
options=
for vip; do
	case $vip in
	*:*) ip -6 address replace "$vip/128" dev lo nodad ;;
	*) ip address replace "$vip/32" dev lo scope link ;;
	esac
	options="$options --vip $vip"
done
if [ "$how" = l2 ]; then
	ip $family route replace default via "$router"
else
	ip $family route replace default via "$router" advmss $mss
	# shellcheck disable=SC2086
	setsid --fork onward decap run --interface eth1 --from $directors $options </dev/null >/run/decap.log 2>&1
fi
