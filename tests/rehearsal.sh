#!/usr/bin/env bash
# A fresh machine: a minimal root of a release of Debian or Ubuntu, with a clean clone of this checkout and nothing else.
# There the demo runs, which says when the first packet was forwarded, and then what is named of the tests.
#
#   tests/rehearsal.sh SUITE [PART [ARG...]]   SUITE: bookworm, trixie, jammy, noble; PART: see tests/run --help
#
# MIRROR in the environment is another one than debootstrap's own; BINDS are folders of this machine to be seen there, for a
# pip that finds packages in them. The clone has what is committed. As root. On Debian, a release of Ubuntu takes Ubuntu's
# keyring in /usr/share/keyrings, which Debian 12 has no package for.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=${1:?a release: bookworm, trixie, jammy, noble}
shift
case $suite in
jammy | noble) components=main,universe ;;
*) components=main ;;
esac
# A debootstrap that is older than the release goes about it as for the one before.
script=$suite
[ -e "/usr/share/debootstrap/scripts/$suite" ] || script=jammy

root=$(mktemp -d /var/tmp/onward-rehearsal.XXXXXX)
chmod 755 "$root"
trap 'rm -rf --one-file-system "$root"; rm -f "$root.log"' EXIT
began=$SECONDS
debootstrap --variant=minbase --include=ca-certificates --components=$components "$suite" "$root" \
	"${MIRROR:-}" "/usr/share/debootstrap/scripts/$script" >"$root.log" 2>&1 || { tail -20 "$root.log" >&2; exit 1; }
git -c safe.directory='*' clone -q --no-local "$repository" "$root/root/onward"
echo "$suite: minimal root and clean clone after $((SECONDS - began)) s, $(git -C "$root/root/onward" rev-parse --short HEAD)"
cp /etc/resolv.conf "$root/etc/resolv.conf"
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$root/etc/pip.conf"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" # whom this machine trusts on its way to packages

# Its own processes and mounts, which end with it; the network is this machine's, since packages come by it.
# shellcheck disable=SC2016
unshare --mount --pid --fork --kill-child bash -euc '
	root=$0
	mount --make-rprivate /
	mount --bind "$root" "$root"
	mount -t proc proc "$root/proc"
	mount -t sysfs sysfs "$root/sys"
	mount --rbind /dev "$root/dev"
	mount -t tmpfs tmpfs "$root/run"
	mount -t tmpfs tmpfs "$root/tmp"
	for folder in ${BINDS:-}; do
		mkdir -p "$root$folder"
		mount --bind "$folder" "$root$folder"
	done
	# Not chroot: whoever enters a mount namespace has its root, and labs do.
	mkdir "$root/old"
	cd "$root"
	pivot_root . old
	exec chroot . bash -euc "
		umount -l /old
		cd /root/onward
		containerlab/demo --picture /tmp/demo.svg
		[ \$# = 0 ] || tests/run \"\$@\"
	" rehearsal "$@"
' "$root" "$@"
echo "$suite: all done after $((SECONDS - began)) s"
