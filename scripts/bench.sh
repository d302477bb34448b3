#!/bin/bash
# Measures the tunnel: scripts/bench.sh [--rounds N] [--seconds S] [--quick] [--write FILE]
#
# Two namespaces joined by a veth pair carry, in turn, the bare cable, the classic one-packet-a-turn loop of
# benches/classic.rs ("C0"), every mode of simpletun, and socat's tunnel over UDP. One round measures all of them once,
# so that ratios are taken between figures of the same minutes; the table shows medians over the rounds.
# Run it on an idle machine. --quick leaves out four streams and the reverse direction. --write also puts the result
# into FILE (docs/BENCHMARKS.md), between the marks it leaves there.
# Exit code 0: the bars at the end of the table hold; 1: one does not, or the benchmark failed.
set -eu
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

rounds=5 seconds=5 quick='' write=''
arguments=("$@")
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=${2:?--rounds takes a number} && shift ;;
    --seconds) seconds=${2:?--seconds takes a number} && shift ;;
    --write) write=$(realpath -m "${2:?--write takes a file}") && shift ;;
    --quick) quick=1 ;;
    *) die "'$1' is not an argument of the benchmark; it takes --rounds N, --seconds S, --quick and --write FILE" ;;
    esac
    shift
done

# Kernels may hold back congestion control algorithms from network namespaces other than the first. TCP links are
# measured under cubic, so it is allowed for as long as the benchmark runs.
allow_cubic() {
    local key=net.ipv4.tcp_allowed_congestion_control allowed
    allowed=$(sysctl -n $key 2>/dev/null) || return 0
    case " $allowed " in *' cubic '*) return 0 ;; esac
    if sysctl -qw "$key=$allowed cubic" 2>/dev/null; then
        # shellcheck disable=SC2064 # the value of now
        trap "sysctl -qw '$key=$allowed'" EXIT
        trap 'exit 1' INT TERM
    fi
}

if [ -z "${SIMPLETUN_BENCH-}" ]; then
    [ "$(id -u)" = 0 ] || die "run it as root: user namespaces cost time of their own and cannot choose cubic"
    install_missing iproute2 iputils-ping iperf3 socat python3 procps util-linux >&2
    cd "$root"
    cargo build --release --bins --example classic >&2
    allow_cubic
    export SIMPLETUN_BENCH
    SIMPLETUN_BENCH=$(target_directory)/release
    BENCH_COMMIT=$(git describe --always --dirty 2>/dev/null || echo unknown) \
        "$runner" "$root/scripts/bench.sh" "${arguments[@]}" </dev/null
    exit
fi

ours=$SIMPLETUN_BENCH/simpletun
classic=$SIMPLETUN_BENCH/examples/classic
inner_local=192.168.0.1
inner_remote=192.168.0.2
# What fits a datagram on the cable: 1500 less 20 bytes of IPv4 and 8 of UDP. A tap's Ethernet header takes 14 of it.
udp_mtu=1472
modes=(bare classic tcp-tun tcp-tap udp-tun udp-tap socat-udp)

# start_pair [FLAG…]: both daemons of ours. The remote end serves.
start_pair() {
    start server remote "$ours" -i bench0 -s --address "$inner_remote/24" "$@"
    start client local "$ours" -i bench0 -c "$remote_address" --address "$inner_local/24" "$@"
}

# The classic loop sets up no device and does not retry.
start_classic() {
    local host
    for host in local remote; do
        ip -n $host tuntap add dev bench0 mode tun
        ip -n $host link set bench0 up
    done
    ip -n local address add "$inner_local/24" dev bench0
    ip -n remote address add "$inner_remote/24" dev bench0
    start server remote "$classic" -i bench0 -s
    wait_for 5 listening 55555 || die "the classic loop does not listen"
    start client local "$classic" -i bench0 -c "$remote_address"
}

listening() { on remote ss -Hltn "sport = :$1" | grep -q .; }

start_socat() {
    local device=iff-no-pi,tun-name=bench0,up host
    start server remote socat "TUN:$inner_remote/24,$device" "UDP4-DATAGRAM:$local_address:7000,bind=:7000"
    start client local socat "TUN:$inner_local/24,$device" "UDP4-DATAGRAM:$remote_address:7000,bind=:7000"
    for host in local remote; do
        wait_for 5 ip -n $host link set bench0 mtu $udp_mtu || die "socat made no device"
    done
}

start_mode() {
    target=$inner_remote
    case $mode in
    bare) target=$remote_address ;;
    classic) start_classic ;;
    tcp-tun) start_pair ;;
    tcp-tap) start_pair --tap ;;
    udp-tun) start_pair --udp --mtu $udp_mtu ;;
    udp-tap) start_pair --udp --tap --mtu $((udp_mtu - 14)) ;;
    socat-udp) start_socat ;;
    esac
    daemons=("${pids[@]}")
}

# A mode's devices go with its daemons, but for those that were made beforehand.
stop_mode() {
    stop_all
    ip -n local link delete bench0 2>/dev/null || true
    ip -n remote link delete bench0 2>/dev/null || true
}

# User and system time of the mode's daemons together, in clock ticks.
ticks() {
    local pid sum=0 fields
    for pid in "${daemons[@]}"; do
        # The name, in parentheses, may hold spaces; what follows it does not.
        read -ra fields < <(sed 's/.*) //' "/proc/$pid/stat")
        sum=$((sum + fields[11] + fields[12]))
    done
    echo $sum
}

# throughput NAME [ARGUMENT…]
throughput() {
    local name=$1 before
    shift
    before=$(ticks)
    on local iperf3 --client "$target" --time "$seconds" --json "$@" >"$raw/$name.json" || {
        show_logs
        die "iperf3 failed: $mode, $name: $(sed -n 's/.*"error":\t*//p' "$raw/$name.json")"
    }
    echo $(($(ticks) - before)) >"$raw/$name.ticks"
}

make_hosts
for host in local remote; do
    on $host sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || true
done
congestion=$(on local sysctl -n net.ipv4.tcp_congestion_control)

for round in $(seq "$rounds"); do
    for mode in "${modes[@]}"; do
        printf 'round %s of %s: %s\n' "$round" "$rounds" "$mode" >&2
        raw=$scratch/raw/$round/$mode
        mkdir -p "$raw"
        start_mode
        start iperf3 remote iperf3 --server --forceflush
        until_logged iperf3 listening
        until_answered "$target"

        on local ping -i 0.002 -c 1000 "$target" >"$raw/ping"
        throughput one
        if [ -z "$quick" ]; then
            throughput four --parallel 4
            throughput reverse --reverse
        fi
        for pid in "${daemons[@]}"; do
            sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$pid/status"
        done >"$raw/resident"
        stop_mode
    done
done

python3 "$root/scripts/bench-table.py" "$scratch/raw" --congestion "$congestion" --commit "$BENCH_COMMIT" --write "$write"
