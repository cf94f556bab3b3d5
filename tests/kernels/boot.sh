#!/bin/busybox sh
# shellcheck shell=dash
# Process 1 of a test machine, in its initramfs. The root file system is the host's own, read-only over 9p, under a
# tmpfs that takes all writes: the checkout and its virtual environment work as they are. Then the host's shell takes
# over and runs the command that the host left in the results folder.
#
# /settings (written by machine.py) says MODULES: where, on the host, the modules of this kernel are.
# An error ends process 1; the kernel then panics, and with panic=-1 the machine ends at once.
set -eu
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
# shellcheck source=/dev/null
. /settings

while read -r module; do insmod "/modules/$module"; done </modules/order

share() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,cache=$3,access=any" "$1" "$2"; }

mkdir -p /scratch /host /new
mount -t tmpfs -o size=75% tmpfs /scratch
mkdir /scratch/upper /scratch/work
share host /host loose
mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work overlay /new

mkdir -p /new/lib/modules
mount --bind "/new$MODULES" /new/lib/modules
mount --move /proc /new/proc
mount --move /sys /new/sys
mount --move /dev /new/dev
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
mount -t tmpfs tmpfs /new/run
mount -t tmpfs tmpfs /new/tmp
chmod 1777 /new/tmp
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup
mount -t bpf bpf /new/sys/fs/bpf
mkdir /new/run/results
share results /new/run/results none

exec switch_root /new /bin/sh /run/results/inside.sh
