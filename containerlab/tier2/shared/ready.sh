#!/bin/sh
# Ready: every VIP is in the kernel's table with both directors as next hops.
for vip in 198.51.100.10 2001:db8:f::10; do
	case $vip in *:*) family=-6 ;; *) family=-4 ;; esac
	count=$(ip $family route show "$vip" | grep -c nexthop)
	if [ "$count" -ne 2 ]; then
		echo "$vip has $count next hops of 2" >&2
		exit 1
	fi
done
