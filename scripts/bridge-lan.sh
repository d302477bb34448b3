#!/bin/bash
# What --bridge-create does, with plain iproute2: scripts/bridge-lan.sh up|down BRIDGE PORT
# up makes the bridge of a device of the LAN: it gets the device's MAC address, its addresses and the routes through it.
# down moves back what the bridge has and deletes it. Connections to this host go on meanwhile. It takes root, and lasts
# until the next boot; the tunnel's tap joins with --bridge BRIDGE.
set -eu

usage() {
    echo "usage: $(basename "$0") up|down BRIDGE PORT      (for example: up br0 eth1)" >&2
    exit 2
}

# addresses FAMILY DEVICE: as ip address add takes them, without the link-local ones.
addresses() {
    ip "$1" -o address show dev "$2" scope global | sed 's/^.* inet6\? \(.*\) scope .*$/\1/'
}

# routes FAMILY DEVICE: as ip route append takes them, without those that come with an address.
routes() {
    ip "$1" route show table all type unicast dev "$2" | sed '/proto kernel/d; s/ linkdown//; s/ expires [^ ]*//'
}

# move FROM TO: everything is on both devices before it is taken from the first.
move() {
    local from=$1 to=$2 family address route moved_addresses moved_routes
    for family in -4 -6; do
        moved_addresses=$(addresses "$family" "$from")
        moved_routes=$(routes "$family" "$from")
        while read -r address; do
            # What has been in use on this segment needs no look for duplicates.
            [ "$family" = -4 ] || address="$address nodad"
            # shellcheck disable=SC2086 # words
            ip "$family" address add $address dev "$to"
        done < <(printf '%s' "$moved_addresses${moved_addresses:+$'\n'}")
        while read -r route; do
            # shellcheck disable=SC2086
            ip "$family" route append $route dev "$to"
            # shellcheck disable=SC2086
            ip "$family" route delete $route dev "$from"
        done < <(printf '%s' "$moved_routes${moved_routes:+$'\n'}")
        ip "$family" address flush dev "$from" scope global
    done
}

[ $# = 3 ] || usage
bridge=$2 port=$3
case $1 in
up)
    ip link add "$bridge" address "$(cat "/sys/class/net/$port/address")" type bridge
    ip link set "$bridge" up
    ip link set "$port" master "$bridge" up
    move "$port" "$bridge"
    ;;
down)
    move "$bridge" "$port"
    ip link delete "$bridge" type bridge
    ;;
*) usage ;;
esac
