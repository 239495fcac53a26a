#!/bin/bash
# Boots systemd as process 1 of its own namespaces on an overlay over a root that debootstrap made; what is written
# goes with the mount namespace. Called in a new mount namespace, in the network namespace that it is to have.
# usage: boot.sh ROOT DIRECTORY NAME
set -eu
root=$1 directory=$2 name=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$directory"
cd "$directory"
mkdir cgroup upper work root
mount -t cgroup2 none cgroup
mkdir -p "cgroup/$name"
echo $$ >"cgroup/$name/cgroup.procs"
umount cgroup
mount -t overlay overlay -o "lowerdir=$root,upperdir=$PWD/upper,workdir=$PWD/work" root
# shellcheck disable=SC2016 # the inner shell expands
exec unshare --cgroup --pid --uts --ipc --fork --kill-child bash -euc '
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 none sys/fs/cgroup
# As systemd mounts it.
mount -t bpf -o mode=0700 bpf sys/fs/bpf
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
ln -s /proc/self/fd dev/fd
# systemd looks for it before it gives a service devices of its own.
ln -s pts/ptmx dev/ptmx
mkdir -p run/before
pivot_root . run/before
umount -l run/before
rmdir run/before
exec env -i container=octroi PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
'
