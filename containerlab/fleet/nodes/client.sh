#!/bin/sh
# A client: client.sh PREFIX4 FIRST PREFIX6 ROUTER4
#
# Several addresses, so that ports need not be used twice in a hundred thousand flows.
set -eu
last=$(($2 + 7))
for number in $(seq "$2" "$last"); do
	ip address replace "$1.$number/26" dev eth1
done
for number in 2 3 4 5; do
	ip -6 address replace "$3::$number/64" dev eth1 nodad
done
ip route replace default via "$4"
ip -6 route replace default via "$3::1"
