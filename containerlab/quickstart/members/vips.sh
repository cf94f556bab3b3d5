# shellcheck shell=sh
# Sourced by the members' set-up: address of the VIPs on the loopback interface, so that the kernel takes their packets.
on_loopback() {
	for vip; do
		case $vip in
		*:*) ip -6 address replace "$vip/128" dev lo nodad ;;
		*) ip address replace "$vip/32" dev lo scope link ;;
		esac
	done
}
