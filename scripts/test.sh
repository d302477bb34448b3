#!/bin/bash
# Runs every test: scripts/test.sh [arguments for cargo nextest run…]
# Installs what the tests need and this machine lacks. A machine that cannot give the tests their own network
# namespaces and devices is an error: nothing is skipped.
set -eu
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
cd "$root"

install_missing iproute2 iputils-ping iperf3 nftables socat openvpn quicktun tcpdump ethtool isc-dhcp-client \
    dnsmasq-base udhcpc radvd conntrack openssh-server openssh-client python3 python3-venv procps tmux util-linux systemd mandoc zsh fish bird2 \
    uml-utilities

if ! cargo nextest --version >/dev/null 2>&1; then
    say "Installing cargo-nextest, which runs each test in a process of its own"
    cargo install --locked cargo-nextest
fi

# The runner names what is missing by itself when it cannot make namespaces; a device is the other half.
if ! "$runner" ip tuntap add dev probe mode tun; then
    die "the tests need namespaces of their own and tun devices in them, and this machine grants neither to $(id -un):
    as root, that takes CAP_SYS_ADMIN, CAP_NET_ADMIN and /dev/net/tun (a container: --device /dev/net/tun and
    these capabilities); for others, unprivileged user namespaces and a /dev/net/tun with mode 0666"
fi

host=$(rustc -vV | sed -n 's/^host: //p')
triple=$(printf '%s' "$host" | tr 'a-z-' 'A-Z_')
SIMPLETUN_TEST_PYTHON=$(peer_python)
export SIMPLETUN_TEST_PYTHON
prepare_containers cargo build --tests --locked
cargo test --doc
env "CARGO_TARGET_${triple}_RUNNER=$runner" cargo nextest run "$@"
