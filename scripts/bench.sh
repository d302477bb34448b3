#!/bin/bash
# Measures the tunnel: scripts/bench.sh [--peers] [--rounds N] [--seconds S] [--quick] [--modes LIST] [--write FILE]
#
# Two namespaces joined by a veth pair carry, in turn, the bare cable, the kernel's VXLAN, the classic one-packet-a-turn
# loop of benches/classic.rs ("C0"), every mode of simpletun, simpletun without segmentation offload ("C1") and the
# classic loop at one end, and socat's tunnel over UDP. One round measures all of them once, each round beginning
# elsewhere in the list, so that ratios are taken between figures of the same minutes; the tables show medians over the
# rounds. What takes longest (more streams, small packets, delay under load and behind a bottleneck) is measured in the
# first three rounds only.
#
# --peers adds vtun, openvpn, tinc, fastd, quicktun and wireguard-go, as far as Debian packages of them are there.
# --modes: these alone, their names separated by commas; ratios to what is left out are left out too.
# --quick: 2 rounds of 3 s of the bare cable, C0 and the four plain modes, one stream only.
# --write puts the tables into FILE (docs/BENCHMARKS.md), between the marks it leaves there, and a plot next to it.
# Run it on an idle machine, as root. What it measured stays in bench/ of cargo's target directory.
# Exit code 0: everything was measured, whatever the bars at the end say; 1: something could not be.
# shellcheck disable=SC2317 # traps and wait_for call by name
set -eu
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

rounds='' seconds='' quick='' peers='' write='' chosen=''
arguments=("$@")
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=${2:?--rounds takes a number} && shift ;;
    --seconds) seconds=${2:?--seconds takes a number} && shift ;;
    --write) write=$(realpath -m "${2:?--write takes a file}") && shift ;;
    --modes) chosen=${2:?--modes takes names, separated by commas} && shift ;;
    --peers) peers=1 ;;
    --quick) quick=1 ;;
    *) die "'$1' is not an argument here; there are --peers, --rounds N, --seconds S, --quick, --modes LIST and --write FILE" ;;
    esac
    shift
done
rounds=${rounds:-${quick:+2}} rounds=${rounds:-5}
seconds=${seconds:-${quick:+3}} seconds=${seconds:-4}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "--rounds $rounds: not a number of rounds"
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "--seconds $seconds: not a number of seconds"

note() {
    say "$*" >&2
    say "$*" >>"$results/notes"
}

# Outside: builds, installs, and runs itself again inside namespaces of its own.

# Kernels may hold back congestion control algorithms from network namespaces other than the first. TCP is measured
# under cubic, inside and outside of the tunnels, so it is allowed for as long as the benchmark runs.
allow_cubic() {
    allowed_before=$(sysctl -n net.ipv4.tcp_allowed_congestion_control 2>/dev/null) || return 0
    case " $allowed_before " in *' cubic '*) allowed_before='' && return 0 ;; esac
    sysctl -qw net.ipv4.tcp_allowed_congestion_control="$allowed_before cubic" 2>/dev/null || allowed_before=''
}

# Installs what can be had of the programs to compare with, and notes what cannot.
install_peers() {
    local package
    for package in vtun openvpn tinc fastd quicktun wireguard-go; do
        if (install_missing $package) >&2 && installed $package; then
            available+=" $package"
        else
            note "$package left out: its Debian package cannot be installed"
        fi
    done
    install_missing wireguard-tools >&2
    note "boringtun left out: there is no Debian package of it"
}

clean_up() {
    if [ -n "$inside" ]; then
        # The namespaces and all that runs in them end with their first process.
        kill -KILL "$inside" 2>/dev/null || true
        wait "$inside" 2>/dev/null || true
    fi
    [ -z "$allowed_before" ] || sysctl -qw net.ipv4.tcp_allowed_congestion_control="$allowed_before"
    [ -z "$temporary" ] || rm -rf "$temporary"
}

if [ -z "${BENCH_PROGRAMS-}" ]; then
    [ "$(id -u)" = 0 ] || die "run it as root: user namespaces cost time of their own and cannot choose cubic"
    install_missing iproute2 iputils-ping iperf3 ethtool socat python3 procps util-linux >&2
    cd "$root"
    cargo build --release --bins --examples >&2
    commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
    results=$(target_directory)/bench
    rm -rf "$results" && mkdir -p "$results"
    available=''
    [ -z "$peers" ] || install_peers

    inside='' allowed_before='' temporary=''
    trap clean_up EXIT
    trap 'exit 1' INT TERM
    temporary=$(mktemp -d)
    allow_cubic
    TMPDIR=$temporary BENCH_PROGRAMS=$(target_directory)/release BENCH_RESULTS=$results BENCH_COMMIT=$commit \
        BENCH_PEERS=$available "$runner" "$root/scripts/bench.sh" "${arguments[@]}" </dev/null &
    inside=$!
    status=0
    wait $inside || status=$?
    inside=''
    exit $status
fi

ours=$BENCH_PROGRAMS/simpletun
classic=$BENCH_PROGRAMS/examples/classic
flood=$BENCH_PROGRAMS/examples/flood
results=$BENCH_RESULTS
inner_local=192.168.0.1
inner_remote=192.168.0.2
# What fits a datagram on the cable: 1500 less 20 bytes of IPv4 and 8 of UDP, and 32 of a secure link. A tap's Ethernet
# header takes 14 of it.
udp_mtu=1472
secure_mtu=1440
extra_rounds=3
extra_seconds=$((seconds < 3 ? seconds : 3))

if [ -n "$quick" ]; then
    modes=(bare classic tcp-tun tcp-tap udp-tun udp-tap)
    extra_modes=''
else
    modes=(
        bare vxlan classic tcp-tun tcp-tap tcp-tun-bbr tcp-tap-bbr udp-tun udp-tap tcp-65000
        secure-tcp secure-tcp-tap secure-tcp-bbr secure-udp secure-udp-tap secure-tcp-chacha secure-udp-chacha
        c1 c1-ours ours-c1 classic-ours ours-classic socat-udp cable-bare cable-tcp-tun cable-udp-tun
    )
    extra_modes=' bare vxlan classic tcp-tun tcp-tap tcp-tun-bbr udp-tun udp-tap tcp-65000 secure-tcp secure-udp socat-udp '
fi
for peer in ${BENCH_PEERS-}; do
    case $peer in
    vtun | openvpn) found=("$peer-tcp" "$peer-udp") ;;
    *) found=("$peer") ;;
    esac
    modes+=("${found[@]}")
    extra_modes+=" ${found[*]} "
done

if [ -n "$chosen" ]; then
    for mode in ${chosen//,/ }; do
        case " ${modes[*]} " in *" $mode "*) ;; *) die "--modes $mode: there are ${modes[*]}" ;; esac
    done
    read -ra modes <<<"${chosen//,/ }"
fi

# The modes: each start_… starts the programs of both ends.

start_mode() {
    target=$inner_remote
    local outer=(--congestion cubic)
    case $mode in
    bare) target=$remote_address ;;
    vxlan) start_vxlan ;;
    classic) classic_server; classic_client ;;
    tcp-tun) server "${outer[@]}"; client "${outer[@]}" ;;
    tcp-tap) server --tap "${outer[@]}"; client --tap "${outer[@]}" ;;
    tcp-tun-bbr) server --congestion bbr; client --congestion bbr ;;
    tcp-tap-bbr) server --tap --congestion bbr; client --tap --congestion bbr ;;
    udp-tun) server --udp --mtu $udp_mtu; client --udp --mtu $udp_mtu ;;
    udp-tap) server --udp --tap --mtu $((udp_mtu - 14)); client --udp --tap --mtu $((udp_mtu - 14)) ;;
    secure-*) start_secure "${mode#secure-}" ;;
    tcp-65000) server --mtu 65000 "${outer[@]}"; client --mtu 65000 "${outer[@]}" ;;
    c1) server --offload off "${outer[@]}"; client --offload off "${outer[@]}" ;;
    c1-ours) server "${outer[@]}"; client --offload off "${outer[@]}" ;;
    ours-c1) server --offload off "${outer[@]}"; client "${outer[@]}" ;;
    classic-ours) server "${outer[@]}"; wait_for 5 listening 55555; classic_client ;;
    ours-classic) classic_server; client "${outer[@]}" ;;
    socat-udp) start_socat ;;
    vtun-*) start_vtun "${mode#vtun-}" ;;
    openvpn-*) start_openvpn "${mode#openvpn-}" ;;
    tinc) start_tinc ;;
    fastd) start_fastd ;;
    quicktun) start_quicktun ;;
    wireguard-go) start_wireguard_go ;;
    cable-*)
        unsegmented_cable on
        mode=${mode#cable-} start_mode
        ;;
    esac
}

# The remote end serves, the local one connects and sends.
server() { start server remote "$ours" -i bench0 -s --address $inner_remote/24 "$@"; }
client() { start client local "$ours" -i bench0 -c $remote_address --address $inner_local/24 "$@"; }

# start_secure tcp|udp[-tap][-bbr|-chacha]
start_secure() {
    local options=(--secret-file "$configuration/secret") mtu=$secure_mtu
    [ -s "$configuration/secret" ] || "$ours" genpsk >"$configuration/secret"
    case $1 in *-tap*) options+=(--tap) mtu=$((secure_mtu - 14)) ;; esac
    case $1 in *-chacha*) options+=(--aead chacha20-poly1305) ;; esac
    case $1 in
    udp*) options+=(--udp --mtu $mtu) ;;
    *-bbr*) options+=(--congestion bbr) ;;
    *) options+=(--congestion cubic) ;;
    esac
    server "${options[@]}"
    client "${options[@]}"
}

# The classic loop sets up no device, and does not retry.
classic_server() {
    ip -n remote tuntap add dev bench0 mode tun
    device_up remote bench0
    start server remote "$classic" -i bench0 -s
    wait_for 5 listening 55555 || die "the classic loop does not listen"
}

classic_client() {
    ip -n local tuntap add dev bench0 mode tun
    device_up local bench0
    start client local "$classic" -i bench0 -c $remote_address
}

# device_up HOST DEVICE [MTU]
device_up() {
    local address=$inner_local
    [ "$1" = local ] || address=$inner_remote
    ip -n "$1" address add $address/24 dev "$2"
    ip -n "$1" link set "$2" up mtu "${3-1500}"
}

listening() { on remote ss -Hln "sport = :$1" | grep -q .; }

# With segmentation left to the cable, a super-packet or a UDP GSO send crosses it in one piece, which no network card
# that lacks the feature would grant.
unsegmented_cable() {
    local state=off host
    [ "$1" = on ] || state=on
    for host in local remote; do
        on $host ethtool -K eth0 tso $state gso $state tx-udp-segmentation $state >/dev/null
    done
}

start_vxlan() {
    ip -n local link add bench0 type vxlan id 7 local $local_address remote $remote_address dstport 4789 dev eth0
    ip -n remote link add bench0 type vxlan id 7 local $remote_address remote $local_address dstport 4789 dev eth0
    device_up local bench0 1450
    device_up remote bench0 1450
}

start_socat() {
    local device=iff-no-pi,tun-name=bench0 host
    start server remote socat "TUN:$inner_remote/24,$device" "UDP4-DATAGRAM:$local_address:7000,bind=:7000"
    start client local socat "TUN:$inner_local/24,$device" "UDP4-DATAGRAM:$remote_address:7000,bind=:7000"
    for host in local remote; do
        wait_for 5 ip -n $host link set bench0 up mtu $udp_mtu || die "socat made no device"
    done
}

# Neither encrypted nor compressed. Over TCP it ends when it meets a device that is not up yet, so these are made before.
start_vtun() {
    local host
    mkdir -p /run/lock/vtund
    cat >"$configuration/vtun" <<END
options { port 5000; }
bench { passwd bench; type tun; device bench0; proto $1; encrypt no; compress no; keepalive no; }
END
    for host in local remote; do
        ip -n $host tuntap add dev bench0 mode tun
        device_up $host bench0 1450
    done
    start server remote vtund -n -s -f "$configuration/vtun"
    wait_for 5 listening 5000 || die "vtund does not listen"
    start client local vtund -n -f "$configuration/vtun" bench $remote_address
}

# With a static key, which all versions up to 2.6 take without more ado, and the fastest cipher that goes with it.
start_openvpn() {
    local server=udp client=udp flags
    [ "$1" = udp ] || server=tcp-server client=tcp-client
    [ -s "$configuration/key" ] || openvpn --genkey secret "$configuration/key"
    flags=(--dev bench0 --dev-type tun --port 7001 --secret "$configuration/key" --verb 3)
    flags+=(--cipher AES-256-CBC --auth SHA256)
    start server remote openvpn "${flags[@]}" --proto $server --ifconfig $inner_remote $inner_local
    start client local openvpn "${flags[@]}" --proto $client --remote $remote_address --connect-retry 1 \
        --ifconfig $inner_local $inner_remote
}

# Neither encrypted nor authenticated.
start_tinc() {
    local host up other address
    for host in local remote; do
        up=$configuration/tinc-$host
        mkdir -p "$up/hosts"
        if ! [ -s "$up/rsa_key.priv" ]; then
            printf 'Name = %s\nInterface = bench0\nDeviceType = tun\n' $host >"$up/tinc.conf"
            [ $host = remote ] || echo 'ConnectTo = remote' >>"$up/tinc.conf"
            address=$inner_local
            [ $host = local ] || address=$inner_remote
            {
                printf 'Subnet = %s/32\nCipher = none\nDigest = none\nCompression = 0\n' $address
                [ $host = local ] || printf 'Address = %s\n' $remote_address
            } >"$up/hosts/$host"
            # shellcheck disable=SC2016 # tinc sets the variable
            printf '#!/bin/sh\nip address add %s/24 dev "$INTERFACE"\nip link set "$INTERFACE" up mtu 1450\n' $address \
                >"$up/tinc-up"
            chmod 755 "$up/tinc-up"
            tincd -c "$up" -K2048 </dev/null >/dev/null 2>&1
        fi
    done
    for host in local remote; do
        other=remote
        [ $host = local ] || other=local
        cp "$configuration/tinc-$other/hosts/$other" "$configuration/tinc-$host/hosts/"
    done
    start server remote tincd -c "$configuration/tinc-remote" -D --pidfile=/run/tinc-remote.pid
    wait_for 5 listening 655 || die "tincd does not listen"
    start client local tincd -c "$configuration/tinc-local" -D --pidfile=/run/tinc-local.pid
}

# Not encrypted; its handshake is.
start_fastd() {
    local host other inner key
    for host in local remote; do
        [ -s "$configuration/fastd-$host.key" ] ||
            fastd --generate-key --machine-readable >"$configuration/fastd-$host.key" 2>/dev/null
        echo "secret \"$(cat "$configuration/fastd-$host.key")\";" >"$configuration/fastd-$host.secret"
    done
    for host in local remote; do
        other=remote inner=$inner_local/24
        [ $host = local ] || other=local inner=$inner_remote/24
        key=$(fastd --show-key --machine-readable --config "$configuration/fastd-$other.secret" 2>/dev/null)
        {
            cat "$configuration/fastd-$host.secret"
            echo "mode tun; interface \"bench0\"; method \"null\"; bind any:7002; mtu 1426;"
            echo "on up \"ip address add $inner dev bench0; ip link set bench0 up\";"
            echo "peer \"other\" {"
            echo "key \"$key\";"
            [ $host = remote ] || echo "remote $remote_address:7002;"
            echo "}"
        } >"$configuration/fastd-$host"
    done
    start server remote fastd --config "$configuration/fastd-remote"
    wait_for 5 listening 7002 || die "fastd does not listen"
    start client local fastd --config "$configuration/fastd-local"
}

# Its raw protocol is one packet a datagram, as ours.
start_quicktun() {
    local host here there
    for host in remote local; do
        here=$local_address there=$remote_address
        [ $host = local ] || here=$remote_address there=$local_address
        start quicktun-$host $host env IFACE=bench0 IF_QT_INTERFACE=bench0 IF_QT_PROTOCOL=raw IF_QT_TUN_MODE=1 \
            IF_QT_LOCAL_ADDRESS=$here IF_QT_LOCAL_PORT=7003 IF_QT_REMOTE_ADDRESS=$there IF_QT_REMOTE_PORT=7003 quicktun
    done
    for host in local remote; do
        wait_for 5 ip -n $host link show bench0 || die "quicktun made no device"
        device_up $host bench0 $udp_mtu
    done
}

# Encrypted, as WireGuard always is. Devices get different names: their control sockets stand in one directory.
start_wireguard_go() {
    local host other
    for host in local remote; do
        [ -s "$configuration/wg-$host.key" ] || (umask 077 && wg genkey >"$configuration/wg-$host.key")
        WG_PROCESS_FOREGROUND=1 start wireguard-$host $host wireguard-go --foreground bench-$host
    done
    for host in local remote; do
        other=remote
        [ $host = local ] || other=local
        wait_for 5 on $host wg show bench-$host || die "wireguard-go made no device"
        on $host wg set bench-$host private-key "$configuration/wg-$host.key" listen-port 7004 \
            peer "$(wg pubkey <"$configuration/wg-$other.key")" allowed-ips 192.168.0.0/24
        device_up $host bench-$host 1420
    done
    on local wg set bench-local peer "$(wg pubkey <"$configuration/wg-remote.key")" endpoint $remote_address:7004
}

# Devices go with their daemons, but for those that were made beforehand.
stop_mode() {
    local host
    stop_all
    for host in local remote; do
        ip -n "$host" link delete bench0 2>/dev/null || true
    done
    on local tc qdisc delete dev eth0 root 2>/dev/null || true
    case $mode in cable-*) unsegmented_cable off ;; esac
}

# The figures. Each is left in $raw as the program printed it.

# measure: everything about $mode in this round.
measure() {
    local begin
    begin=$(clock)
    start_mode
    daemons=("${pids[@]}")
    first_answer
    [ ${#daemons[@]} = 0 ] || echo $(($(clock) - begin)) >"$raw/start"
    start iperf3 remote iperf3 --server --forceflush
    until_logged iperf3 listening

    on local ping -i 0.002 -c 500 "$target" >"$raw/ping"
    throughput one "$seconds"
    case $extra_modes in *" $mode "*) [ "$round" -gt $extra_rounds ] || measure_extra ;; esac
    for pid in $(processes); do
        sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$pid/status"
    done >"$raw/resident"
}

measure_extra() {
    throughput four $extra_seconds --parallel 4
    throughput reverse $extra_seconds --reverse
    throughput both $extra_seconds --bidir
    loaded_ping loaded
    packets flood
    packets offered --rate 50000
    slow_cable
}

# The same behind a bottleneck: the cable's near end sends no faster than this, from a queue of 50 ms.
slow_cable() {
    on local tc qdisc add dev eth0 root tbf rate 200mbit burst 32k latency 50ms
    loaded_ping slow
    loaded_ping slow-four --parallel 4
    on local tc qdisc delete dev eth0 root
}

# Hundredths of a second; the wall clock may be set meanwhile.
clock() {
    local now
    read -r now _ </proc/uptime
    echo "${now/./}"
}

# Pings until the first answer. `ping` gives up at once while there is no device or no address.
first_answer() {
    local end=$((SECONDS + 15))
    until on local ping -q -c 1 -w 15 -i 0.01 "$target" >"$raw/first" 2>&1; do
        [ $SECONDS -lt $end ] || die "no answer from $target within 15 s"
        sleep 0.01
    done
}

# The daemons of the mode, and what they have started.
processes() {
    local pid
    for pid in "${daemons[@]}"; do
        [ -d "/proc/$pid" ] || die "a daemon has ended"
        echo "$pid"
        pgrep -P "$pid" || true
    done
}

# User and system time of the mode's daemons together, in clock ticks.
ticks() {
    local pid pids sum=0 fields
    pids=$(processes)
    for pid in $pids; do
        # The name, in parentheses, may hold spaces; what follows it does not.
        read -ra fields < <(sed 's/.*) //' "/proc/$pid/stat")
        sum=$((sum + fields[11] + fields[12]))
    done
    echo $sum
}

# throughput NAME SECONDS [ARGUMENT…]
throughput() {
    local name=$1 time=$2 before after
    shift 2
    before=$(ticks)
    iperf3_client "$name.json" "$time" "$@" || {
        note "iperf3 failed once and was started again: $mode, round $round, $name: $(iperf3_error "$name.json")"
        before=$(ticks)
        iperf3_client "$name.json" "$time" "$@" || die "iperf3 failed, $name: $(iperf3_error "$name.json")"
    }
    after=$(ticks)
    echo $((after - before)) >"$raw/$name.ticks"
}

# iperf3_client FILE SECONDS [ARGUMENT…]. It may report an error and exit with 0 all the same.
iperf3_client() {
    local file=$raw/$1 time=$2
    shift 2
    on local timeout $((time + 20)) iperf3 --client "$target" --time "$time" --json "$@" >"$file" &&
        grep -q '"sum_received"' "$file"
}

iperf3_error() { sed -n 's/.*"error":[[:space:]]*//p' "$raw/$1"; }

# loaded_ping NAME [ARGUMENT…]: ping beside a transfer by iperf3.
loaded_ping() {
    local name=$1 load
    shift
    iperf3_client "$name.load" $((extra_seconds + 1)) "$@" &
    load=$!
    sleep 0.5
    on local ping -i 0.01 -c $((extra_seconds * 100)) -W 1 "$target" >"$raw/$name-ping" || true
    wait $load || die "iperf3 failed beside ping, $name: $(iperf3_error "$name.load")"
}

# packets NAME [ARGUMENT…]: 64-byte packets, as many as possible or at a rate.
packets() {
    local name=$1 before after sink
    shift
    start sink remote "$flood" receive "$target:9000"
    sink=$!
    wait_for 5 listening 9000 || die "the packet counter does not listen"
    before=$(ticks)
    on local timeout 60 "$flood" send "$target:9000" --seconds $extra_seconds "$@" >"$raw/$name.sent"
    wait $sink || true
    unset 'pids[-1]'
    after=$(ticks)
    echo $((after - before)) >"$raw/$name.ticks"
    grep received= "$scratch/sink" >"$raw/$name" || die "no packet count"
}

make_hosts
configuration=$scratch/configuration
mkdir "$configuration"
for host in local remote; do
    on $host sysctl -qw net.ipv4.tcp_congestion_control=cubic 2>/dev/null || true
done
congestion=$(on local sysctl -n net.ipv4.tcp_congestion_control)
# shellcheck disable=SC2086 # a list
dpkg-query -W -f='${Package} ${Version}\n' iperf3 socat ${BENCH_PEERS-} >"$results/versions" 2>/dev/null || true

failed=0
for round in $(seq "$rounds"); do
    first=$(((round - 1) * ${#modes[@]} / rounds))
    for mode in "${modes[@]:first}" "${modes[@]:0:first}"; do
        printf '%4s s: round %s of %s: %s\n' $SECONDS "$round" "$rounds" "$mode" >&2
        raw=$results/rounds/$round/$mode
        mkdir -p "$raw"
        find "$scratch" -maxdepth 1 -type f -delete
        set +e
        (
            set -e
            trap stop_mode EXIT
            measure
        )
        status=$?
        set -e
        if [ $status != 0 ]; then
            failed=1
            touch "$raw/failed"
            find "$scratch" -maxdepth 1 -type f -exec cp {} "$raw/" \;
            show_logs
            printf 'FAILED: %s in round %s; its logs and figures: %s\n' "$mode" "$round" "$raw" >&2
        fi
    done
done

python3 "$root/scripts/bench-table.py" "$results" --congestion "$congestion" --commit "$BENCH_COMMIT" --write "$write"
exit $failed
