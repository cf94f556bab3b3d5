#!/usr/bin/env bash
# Makes a checkout runnable on a fresh Debian or Ubuntu machine: system packages, a private virtual environment in
# .venv, the compiled BPF objects. Idempotent: what is there already is skipped, and a second run costs no time.
#
# Sourced by containerlab/demo and tests/run; offers
#   bootstrap WHAT...   WHAT: run (the appliance), lab (routers, captures, pictures), dev (tests and compilers),
#                       kernels (what boots other kernels), ui (a browser), rehearsal (what makes a minimal root)
#   as_root CMD...      runs CMD as root, through sudo where the user is not root
#   VENV                the virtual environment's path
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv

say() { printf '\033[2m-- %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; return; fi
	command -v sudo >/dev/null || die "this needs root: run it as root, or install sudo"
	sudo --preserve-env=CI,ONWARD_ARTEFACTS,ONWARD_FAILED "$@"
}

# The distribution's own interpreter first: a service must not depend on one under somebody's home.
find_python() {
	local candidate
	for candidate in /usr/bin/python3 /usr/bin/python3.{14,13,12,11} python3.{14,13,12,11} python3; do
		if command -v "$candidate" >/dev/null 2>&1 &&
			"$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
			command -v "$candidate"
			return
		fi
	done
	return 1
}

# The same, installed if need be. Ubuntu 22.04's own is 3.10, but it has 3.11 beside it.
ensure_python() {
	find_python && return
	apt_install python3 python3-venv >&2
	find_python && return
	apt_install python3.11 python3.11-venv >&2
	find_python || die "Python 3.11 or newer is needed, and this system has none to install"
}

missing_packages() {
	local package
	for package in "$@"; do
		dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s\n' "$package"
	done
}

# FRR, BIRD, etcd and unbound start a server when they are installed. Nobody asked for one on this machine: policy-rc.d says no
# (exit 101) for the time of the installation only.
apt_install() {
	local missing policy=/usr/sbin/policy-rc.d
	mapfile -t missing < <(missing_packages "$@")
	[ "${#missing[@]}" -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "please install: ${missing[*]} (automatic only where apt-get is)"
	say "installing ${missing[*]}"
	local guard=no
	if [ ! -e $policy ]; then
		guard=yes
		printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
		as_root chmod +x $policy
	fi
	local ok=yes log
	log=$(mktemp)
	{ as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null || ok=no
	[ $guard = no ] || as_root rm -f $policy
	if [ $ok = no ]; then
		tail -20 "$log" >&2
		rm -f "$log"
		die "apt-get could not install: ${missing[*]}"
	fi
	rm -f "$log"
}

# The one program of Prometheus that tests need, without the server, which would be started and brings fonts and scripts.
# Since Debian 13, it is a package of its own.
fetch_promtool() {
	if [ -x "$VENV/bin/promtool" ] || command -v promtool >/dev/null; then return 0; fi
	command -v apt-get >/dev/null || die "please install promtool, which comes with Prometheus (automatic only where apt-get is)"
	local folder package=prometheus ok=no
	apt-cache show prometheus >/dev/null 2>&1 || as_root apt-get update -q >/dev/null 2>&1 || true
	if apt-cache show promtool >/dev/null 2>&1; then package=promtool; fi
	say "promtool from the package $package"
	folder=$(mktemp -d)
	if (cd "$folder" && { apt-get download $package || { as_root apt-get update && apt-get download $package; }; }) \
		>"$folder/log" 2>&1 && dpkg-deb --fsys-tarfile "$folder"/*.deb | tar -xO ./usr/bin/promtool >"$folder/promtool"; then
		install -m 755 "$folder/promtool" "$VENV/bin/promtool" && ok=yes
	fi
	[ $ok = yes ] || tail -5 "$folder/log" >&2
	rm -rf "$folder"
	[ $ok = yes ] || die "promtool could not be had"
}

# Ubuntu 22.04 calls it libbpf0.
libbpf_package() {
	if apt-cache show libbpf1 >/dev/null 2>&1; then echo libbpf1; else echo libbpf0; fi
}

# requirements*.lock carry hashes and no addresses; the stamp makes an unchanged lock free.
make_venv() {
	local lock=$ROOT/$1 stamp=$VENV/.stamp python want
	want=$(cat "$lock" "$ROOT/pyproject.toml" | sha256sum | cut -c1-32)
	[ -f "$stamp" ] && grep -qx "$want" "$stamp" && return 0
	python=$(ensure_python)
	if ! "$VENV/bin/python" -c '' 2>/dev/null; then
		say "virtual environment with $("$python" --version)"
		"$python" -c 'import ensurepip' 2>/dev/null || apt_install "$("$python" -c 'import sys; print(f"python3.{sys.version_info[1]}-venv")')"
		"$python" -m venv "$VENV"
	fi
	say "Python packages from $1"
	"$VENV/bin/python" -m pip -q install --disable-pip-version-check uv 2>/dev/null || true
	if [ -x "$VENV/bin/uv" ]; then
		VIRTUAL_ENV=$VENV "$VENV/bin/uv" pip install -q --require-hashes -r "$lock"
		VIRTUAL_ENV=$VENV "$VENV/bin/uv" pip install -q --no-deps -e "$ROOT"
	else
		"$VENV/bin/python" -m pip -q install --disable-pip-version-check --require-hashes -r "$lock"
		"$VENV/bin/python" -m pip -q install --disable-pip-version-check --no-deps -e "$ROOT"
	fi
	printf '%s\n' "$want" >>"$stamp"
}

bootstrap() {
	local packages=(iproute2 nftables procps) lock=requirements.lock what
	local libbpf
	for what in "$@"; do
		case $what in
		run) ;;
		lab) packages+=(frr haproxy ethtool tcpdump iputils-ping curl); lock=requirements-dev.lock ;;
		dev) packages+=(bird2 gobgpd etcd-server gcc groff-base libc6-dev linux-libc-dev shellcheck systemd systemd-container unbound); lock=requirements-dev.lock ;;
		ui) packages+=(chromium); lock=requirements-dev.lock ;;
		rehearsal) packages+=(debootstrap git debian-archive-keyring); lock=requirements-dev.lock ;;
		kernels) packages+=(qemu-system-x86 busybox-static kmod zstd); lock=requirements-dev.lock ;;
		*) die "bootstrap: unknown part: $what" ;;
		esac
	done
	if command -v apt-get >/dev/null; then
		libbpf=$(libbpf_package)
		packages+=("$libbpf")
	fi
	apt_install "${packages[@]}"
	make_venv "$lock"
	# A checkout compiles its BPF programs; a wheel brings them compiled.
	if [ $lock = requirements-dev.lock ]; then "$VENV/bin/python" "$ROOT/systemd/build_bpf.py" --quiet; fi
	for what in "$@"; do
		if [ "$what" = dev ]; then fetch_promtool; fi
	done
	# The web application only where it is tested: all else works without it.
	case " $* " in *" dev "* | *" ui "*) "$VENV/bin/python" "$ROOT/systemd/build_web.py" --quiet ;; esac
}
