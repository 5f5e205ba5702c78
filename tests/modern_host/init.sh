#!/bin/busybox sh
# First process of the modern host: the machine's own files, read only, below a layer in memory,
# under a kernel with everything built as modules; runs one command and ends.
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    insmod /modules/"$module"
done

mount -t virtiofs host /lower -o ro
mount -t tmpfs -o size=1500m layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work over /new
for part in proc sys dev; do
    mount --move /$part /new/$part
done
mount -t tmpfs run /new/run
mkdir /new/run/exchange
mount -t virtiofs exchange /new/run/exchange
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts pts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
mount -t cgroup2 cgroup /new/sys/fs/cgroup

# The kernel loads modules by itself through the program named here.
modules=$(cat /new/run/exchange/modules)
mkdir -p /new/lib/modules /new/usr/local/sbin
mount --bind /new"$modules" /new/lib/modules
cp /bin/busybox /new/usr/local/sbin/modprobe
echo /usr/local/sbin/modprobe >/new/proc/sys/kernel/modprobe
chroot /new /usr/local/sbin/modprobe tun
ip link set lo up
exec switch_root /new /bin/sh /run/exchange/run
