#!/bin/sh
# Ready: every VIP is in the kernel's table with all three directors as next hops.
for vip in 198.51.100.10 198.51.100.20 2001:db8:f::10; do
	case $vip in *:*) family=-6 ;; *) family=-4 ;; esac
	count=$(ip $family route show "$vip" | grep -c nexthop)
	if [ "$count" -ne 3 ]; then
		echo "$vip has $count next hops of 3" >&2
		exit 1
	fi
done
