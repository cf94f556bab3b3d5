#!/bin/sh
# What a test machine runs when it is up: the command in the results folder. Its output and its exit code go there.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
results=/run/results
uname -r >$results/started
ip link set lo up
# Elsewhere udev makes the device node, which loads the module at first use.
modprobe tun
/bin/sh $results/command >$results/output 2>&1 </dev/null
echo $? >$results/exit
sync
# Process 1 must not end. The machine resets, which ends the emulator (-no-reboot); this needs no program.
echo b >/proc/sysrq-trigger
