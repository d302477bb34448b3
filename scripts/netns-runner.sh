#!/bin/bash
# Cargo target runner: runs its arguments in fresh network, mount and process namespaces, so that tests may make
# devices and namespaces of any name, and nothing is left behind however they end.
set -eu

if [ "${1-}" != --inside ]; then
    if [ "$(id -u)" = 0 ]; then
        set -- unshare -nmp --fork --kill-child --mount-proc "$0" --inside "$@"
        "${@:1:5}" true 2>/dev/null || {
            echo "netns-runner: cannot make namespaces although this is root: CAP_SYS_ADMIN is missing" >&2
            exit 1
        }
        exec "$@"
    fi
    # Most tests need one user id only, some a second one.
    for map in "--map-root-user --map-auto" "--map-root-user"; do
        # shellcheck disable=SC2086
        if unshare $map -nmp --fork --kill-child --mount-proc ip tuntap add dev probe mode tun 2>/dev/null; then
            if [ "$map" = --map-root-user ]; then
                echo "netns-runner: tests with an unprivileged owner will fail: run as root, or install uidmap and give $(id -un) a range in /etc/subuid and /etc/subgid" >&2
            fi
            exec unshare $map -nmp --fork --kill-child --mount-proc "$0" --inside "$@"
        fi
    done
    if ! unshare -rn true 2>/dev/null; then
        echo "netns-runner: run as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)" >&2
    else
        echo "netns-runner: run as root, or make /dev/net/tun readable and writable for $(id -un) (chmod 0666 /dev/net/tun)" >&2
    fi
    exit 1
fi
shift

mount -t tmpfs -o mode=0755 tmpfs /run
ip link set lo up
# Device access for the unprivileged users of the tests, seen in this mount namespace only. A user namespace may not
# make device nodes; there the machine's own node was usable or we would not be here.
if mknod -m 0666 /run/tun c 10 200 2>/dev/null; then
    mount --bind /run/tun /dev/net/tun
fi
export SIMPLETUN_NETNS=1
exec "$@"
