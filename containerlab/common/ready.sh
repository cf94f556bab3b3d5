#!/bin/sh
# A router is ready when its kernel has a VIP by so many directors: ready.sh COUNT VIP
case $2 in *:*) family=-6 ;; *) family=-4 ;; esac
count=$(ip $family route show "$2" | grep -c via)
if [ "$count" -ne "$1" ]; then
	echo "$2 by $count directors instead of $1" >&2
	exit 1
fi
