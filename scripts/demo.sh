#!/bin/bash
# Shows a tunnel at work: scripts/demo.sh [--udp] [--tap]
# Builds the daemon, joins two namespaces of this machine by a cable, starts a server on one side and a client on the
# other, pings and measures through the tunnel. It runs in namespaces of its own: nothing of it is seen outside, and
# nothing is left behind.
set -eu
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

transport=TCP kind=tun flags=()
for argument in "$@"; do
    case $argument in
    --udp) transport=UDP flags+=(--udp) ;;
    --tap) kind=tap flags+=(--tap) ;;
    *) die "'$argument' is not an argument of the demo; it takes --udp and --tap" ;;
    esac
done

if [ -z "${SIMPLETUN_DEMO-}" ]; then
    cd "$root"
    install_missing iproute2 iputils-ping iperf3 procps util-linux
    say "Building simpletun (cargo build --release)"
    cargo build --release
    binary=$(target_directory)/release/simpletun
    inside=(env "SIMPLETUN_DEMO=$binary" "$runner" "$root/scripts/demo.sh" "$@")
    if "$runner" ip tuntap add dev probe mode tun 2>/dev/null; then
        exec "${inside[@]}"
    elif [ "$(id -u)" != 0 ] && command -v sudo >/dev/null; then
        say "Making namespaces and tun devices takes root here: using sudo"
        exec sudo -- "${inside[@]}"
    fi
    exec "${inside[@]}"
fi

make_hosts
start server remote "$SIMPLETUN_DEMO" -i tun3 -s --address 192.168.0.2/24 "${flags[@]}"
start client local "$SIMPLETUN_DEMO" -i tun11 -c "$remote_address" --address 192.168.0.1/24 "${flags[@]}"
until_answered 192.168.0.2
until_logged client 'tunnel up'
until_logged server 'tunnel up'
start iperf3 remote iperf3 --server --forceflush
until_logged iperf3 listening

ping=$(on local ping -q -i 0.2 -c 10 192.168.0.2)
iperf=$(on local iperf3 --client 192.168.0.2 --time 5 --format m)

answered=$(sed -n 's/.* \([0-9]*\) received.*/\1 of 10 answered/p' <<<"$ping")
round_trip=$(sed -n 's/^rtt [^=]*= \(.*\)\/[^/]* ms/\1 ms/p' <<<"$ping")
rate=$(awk '/receiver/ { for (i = 2; i <= NF; i++) if ($i == "Mbits/sec") print $(i - 1) " Mbit/s" }' <<<"$iperf")
cat <<TEXT

Two hosts in one machine, a $kind device over $transport:

  local   tun11 192.168.0.1   <~~~~~ tunnel ~~~~~>   192.168.0.2  tun3   remote
          eth0  $local_address   <----- cable ------>   $remote_address eth0

  server    $(grep -m 1 'tunnel up' "$scratch/server")
  client    $(grep -m 1 'tunnel up' "$scratch/client")
  ping      $answered, round trip min/avg/max $round_trip
  iperf3    $rate through the tunnel, one TCP stream, 5 s

The daemons end now, and the devices and namespaces with them.
TEXT
