#!/bin/sh
# First process of metald's minimal guest. Everything it needs comes on the kernel command
# line; the words are made by reconciler/hypervisors/image/cmdline.py:
#   metald.name=TENANT/VM  metald.gw=fe80::1  metald.if=MAC,ADDRESS[,ADDRESS...]  (one per interface;
#   ADDRESS/64 where the interface is on a segment with others)
#   metald.dns=ADDRESS[,ADDRESS...]
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

# The gateway answers no router solicitation and there is no segment to probe: be ready at once.
for scope in all default; do
    echo 0 >/proc/sys/net/ipv6/conf/$scope/accept_ra
    echo 0 >/proc/sys/net/ipv6/conf/$scope/accept_dad
    echo 0 >/proc/sys/net/ipv6/conf/$scope/dad_transmits
done
for module in $(cat /modules/order); do
    insmod /modules/"$module" 2>/dev/null
done

name=guest gateway=fe80::1 interfaces= resolvers=
for word in $(cat /proc/cmdline); do
    case $word in
        metald.name=*) name=${word#*=} ;;
        metald.gw=*) gateway=${word#*=} ;;
        metald.if=*) interfaces="$interfaces ${word#*=}" ;;
        metald.dns=*) resolvers=$(echo "${word#*=}" | tr , ' ') ;;
    esac
done
hostname "${name#*/}"
ip link set lo up

# The default route goes by the first interface; others reach their own /64.
first=yes all=
for interface in $interfaces; do
    mac=${interface%%,*}
    for device in /sys/class/net/*; do
        [ "$(cat "$device/address")" = "$mac" ] || continue
        link=${device##*/}
        ip link set "$link" up
        for address in $(echo "${interface#*,}" | tr , ' '); do
            all="$all ${address%/*}"
            case $address in
                */*) ip -6 addr add "$address" dev "$link"; continue ;;
            esac
            ip -6 addr add "$address/128" dev "$link"
            [ $first = yes ] || ip -6 route add "$address/64" via "$gateway" dev "$link"
        done
        [ $first = yes ] && ip -6 route add default via "$gateway" dev "$link"
        first=no
    done
done

mkdir -p /etc
for resolver in $resolvers; do
    # A link-local one, the host itself, is asked by the first interface.
    case $resolver in fe80:*) resolver=$resolver%eth0 ;; esac
    echo "nameserver $resolver" >>/etc/resolv.conf
done

acpid -c /etc/acpi -a /etc/acpid.conf -M /etc/acpi.map -l /dev/null
nc -ll -p 7 -e /bin/answer &

read -r up _ </proc/uptime
echo "metald-guest ready name=$name uptime=$up addresses=$(echo $all | tr ' ' ,)" >/dev/ttyS0
while :; do
    setsid cttyhack sh -l </dev/ttyS0 >/dev/ttyS0 2>&1
done
