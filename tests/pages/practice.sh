# What the README and the how-to pages take for granted: a host with an uplink and two tenants' interfaces, whose /etc,
# /run and /var are its own. Run in mount, process and network namespaces of its own, with a PostgreSQL's socket in
# $DATABASE and an empty directory $WORK; the rest of the script follows.
set -eu
export LC_ALL=C.UTF-8
mkdir "$WORK/etc" "$WORK/empty"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$WORK/etc,workdir=$WORK/empty" /etc
printf 'octroi-read:x:64001:\noctroi-policy:x:64002:\n' >> /etc/group
printf '127.0.0.1 host.example\n' >> /etc/hosts
mount -t tmpfs practice /run
mount -t tmpfs practice /var/lib
mount -t tmpfs practice /var/cache
mount -t sysfs practice /sys
mount -t bpf practice /sys/fs/bpf
mkdir -p /etc/octroi /var/lib/octroi /var/cache/nfdump /run/postgresql
mount --bind "$DATABASE" /run/postgresql

ip link set lo up
ip netns add internet && ip netns add vm1
ip link add br0 type bridge mcast_snooping 0
ip link add br-mgmt type bridge
ip link set br0 up
ip link add eth0 type veth peer name eth0 netns internet
ip link add tap0 type veth peer name eth0 address 52:54:00:00:00:01 netns vm1
ip link add tap1 type veth peer name other
for port in eth0 tap0 tap1; do ip link set $port master br0 up; done
ip -n internet address add 10.0.0.1/8 dev eth0
ip -n vm1 address add 10.0.0.5/8 dev eth0
for name in internet vm1; do ip -n $name link set eth0 up; done
mkdir "$WORK/here" && cd "$WORK/here"
set +eu
