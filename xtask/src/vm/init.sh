#!/usr/bin/sh
# The first process of a test machine: makes a small Linux, runs /vm/script, says how that ended.
export PATH=/usr/sbin:/usr/bin HOME=/root LANG=C TERM=dumb
# Tests that harm a machine look for this.
export OCTROI_VM=1

mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /dev/shm
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
# An emulated CPU is slow: what a veth hands over must wait for it, and not be dropped behind the meter.
echo 100000 >/proc/sys/net/core/netdev_max_backlog
hostname octroi-vm
ulimit -l unlimited

# Tunnel modules would put gre0, sit0 and the like into every namespace.
echo 2 >/proc/sys/net/core/fb_tunnels_only_for_init_net
while read -r module; do
    modprobe "$module" 2>/dev/null || echo "vm: module $module cannot be loaded"
done </vm/modules
ip link set lo up

# The second port carries the script's output alone, as it was written; the first is the kernel's.
stty -F /dev/ttyS1 raw -echo
sh /vm/script </dev/null >/dev/ttyS1 2>&1
echo "OCTROI-VM-EXIT:$?" >/dev/ttyS1
poweroff -f
