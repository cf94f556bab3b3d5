# shellcheck shell=sh
# Sourced by each topology's check. Every node's network namespace has a name, with containerlab as with `onward lab`, so
# the same check does for both: check [LAB], the name under which the topology is up.
set -eu
lab=${1:-$(basename "$(dirname "$0")")}

# on NODE COMMAND...: in the node's network, with this machine's programs
on() {
	node=$1
	shift
	ip netns exec "clab-$lab-$node" "$@"
}

# until_true WHAT COMMAND...: it becomes so within half a minute
until_true() {
	what=$1
	shift
	tries=0
	until "$@"; do
		tries=$((tries + 1))
		[ $tries -lt 150 ] || fail "$what: not within 30 s"
		sleep 0.2
	done
	echo "ok: $what"
}

fail() {
	echo "$lab: $*" >&2
	exit 1
}

# answered URL COUNT MEMBER...: of so many requests each is answered, and every one of these members answers some
answered() {
	url=$1 count=$2
	shift 2
	names=$(for _ in $(seq "$count"); do on client curl -sf --max-time 3 "$url" || echo nobody; done | cut -d' ' -f1 | sort | uniq -c)
	case $names in *nobody*) fail "$url: not every request was answered: $names" ;; esac
	for member; do
		case $names in *" $member"*) ;; *) fail "$url: $member has answered none of $count: $names" ;; esac
	done
	echo "ok: $count requests for $url, answered by $(echo "$names" | tr -s ' \n' ' ')"
}

# hops VIP: the next hops that the router's kernel has for a VIP
hops() {
	case $1 in *:*) family=-6 ;; *) family=-4 ;; esac
	on r1 ip $family route show "$1" | sed -n 's/.*via \(inet6 \)\{0,1\}\([^ ]*\).*/\2/p' | sort | xargs
}
hops_are() { [ "$(hops "$1")" = "$2" ]; }

# forwarded DIRECTOR: packets that it has sent to members
forwarded() {
	on "$1" curl -sf http://127.0.0.1:8080/metrics | sed -n 's/^onward_service_packets_total{.*} //p' | awk '{ sum += $1 } END { print int(sum) }'
}

# taken NODE INTERFACE: bytes that have arrived there
taken() { on "$1" cat "/sys/class/net/$2/statistics/rx_bytes"; }

# kill_director NODE: everything in it that is the director's, as if the machine had lost power
kill_director() {
	for pid in $(ip netns pids "clab-$lab-$1"); do
		case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null) in *"onward run"* | *exabgp* | *guard.py* | *bgp.bfd*) kill -9 "$pid" 2>/dev/null || true ;; esac
	done
	echo "ok: $1 was killed"
}
