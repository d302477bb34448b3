# What the scripts share: messages, packages, privilege, and waiting for something to happen. Sourced, not run.
# shellcheck shell=bash disable=SC2034

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Runs a command as root of network, mount and process namespaces that end with it.
runner=$root/scripts/netns-runner.sh
# What an ordinary user's, sudo's or a service's PATH may lack.
PATH=$PATH:/usr/sbin:/sbin:${CARGO_HOME:-${HOME-}/.cargo}/bin

say() { printf '%s\n' "$*"; }

die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Runs a command with the rights to change this machine.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -- "$@"
    fi
}

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# install_missing PACKAGE…: installs the Debian packages among them that this machine lacks, and says which.
install_missing() {
    local package missing=()
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "This is not Debian: make sure that what these packages hold is there: ${missing[*]}"
        return 0
    fi
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "packages are missing, and there is no sudo; as root run: apt-get install ${missing[*]}"
    fi
    say "Installing what is missing: ${missing[*]}"
    # openssh-server, openvpn, radvd and iperf3 bring services. The tests start these programs themselves, so the
    # machine must not begin to listen because its packages were needed: policy-rc.d keeps the installation from
    # starting any service, and the units of what was installed here are disabled, so that the next boot does not
    # start them either. A policy that the machine already has stays as it is.
    as_root env DEBIAN_FRONTEND=noninteractive sh -eu -c '
        if ! [ -e /usr/sbin/policy-rc.d ]; then
            trap "rm -f /usr/sbin/policy-rc.d" EXIT
            trap "exit 1" INT TERM
            printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d
            chmod 755 /usr/sbin/policy-rc.d
        fi
        apt-get update -q
        apt-get install -qy --no-install-recommends "$@"
        command -v systemctl >/dev/null || exit 0
        dpkg-query -L "$@" | sed -n "s,^\(/usr\)\?/lib/systemd/system/\([^/@]*\.\(service\|socket\)\)$,\2,p" |
            xargs -r systemctl disable -q 2>/dev/null || true
    ' sh "${missing[@]}" </dev/null
}

# wait_for SECONDS COMMAND…: tries the command until it succeeds; fails when the time is over.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.05
    done
}

# Where cargo puts what it builds.
target_directory() {
    cargo metadata --format-version 1 --no-deps --manifest-path "$root/Cargo.toml" |
        sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}

# Makes the Python environment in which the second implementation of secure links runs, unless it is there with exactly
# what tests/peer/requirements.txt wants, and prints the path of its Python. It is made of the system's own Python, for
# the tests must not depend on what PATH finds.
peer_python() {
    local wanted=$root/tests/peer/requirements.txt environment
    environment=$(target_directory)/peer-venv
    # The copy is put there last, so that an environment that was left half made is not taken for a whole one.
    if ! cmp -s "$wanted" "$environment/requirements.txt" ||
        ! "$environment/bin/python" -c 'import cryptography, noise.connection, prometheus_client' 2>/dev/null; then
        say "Making the Python environment of tests/peer in $environment" >&2
        # Called for its output, a function does not end at the first failure by itself.
        rm -rf "$environment" &&
            /usr/bin/python3 -m venv "$environment" >&2 &&
            "$environment/bin/python" -m pip install -q --disable-pip-version-check -r "$wanted" >&2 &&
            cp "$wanted" "$environment/requirements.txt" ||
            die "cannot make the Python environment of tests/peer"
    fi
    printf '%s\n' "$environment/bin/python"
}

# The containers' Debian releases, with systemd 252 and 257, and what they have beside the base: systemd, what has to leave
# the tunnel's device alone, and what the tests run inside; of its services only those that a test starts.
container_releases='bookworm trixie'
container_packages=systemd,systemd-sysv,dbus,network-manager,iproute2,iputils-ping,procps,openssh-server,openssh-client

# Makes the root directories that the containers of the tests share, unless they are there.
make_container_roots() {
    local release made
    mkdir -p "$SIMPLETUN_TEST_CONTAINERS"
    for release in $container_releases; do
        made=$SIMPLETUN_TEST_CONTAINERS/$release
        [ "$(cat "$made.list" 2>/dev/null)" != "$container_packages" ] || continue
        say "Making the file system of the test's containers in $made"
        rm -f "$made.list"
        as_root rm -rf "$made"
        # shellcheck disable=SC2016 # mmdebstrap expands it.
        as_root mmdebstrap --quiet --variant=minbase --include="$container_packages" \
            --customize-hook='chroot "$1" systemctl --quiet disable NetworkManager.service ssh.service' "$release" "$made"
        # Last, so that one that was left half made is not taken for a whole one.
        printf '%s\n' "$container_packages" >"$made.list"
    done
}

# prepare_containers [COMMAND…]: prepares the tests in containers and says in the environment where it is: a directory with
# the root directories, and the package in two versions, of the debug build. The command runs beside the first, which takes
# minutes of the network and little of the processors.
prepare_containers() {
    local target roots_job
    install_missing systemd-container mmdebstrap iproute2
    target=$(target_directory)
    SIMPLETUN_TEST_CONTAINERS=$target/containers
    SIMPLETUN_TEST_PACKAGES=$target/container-packages
    export SIMPLETUN_TEST_CONTAINERS SIMPLETUN_TEST_PACKAGES
    make_container_roots &
    roots_job=$!
    "$@"
    wait "$roots_job" || die "the file systems of the test's containers cannot be made"
    rm -rf "$SIMPLETUN_TEST_PACKAGES"
    scripts/package.sh --debug --version 0.1.0-1 "$SIMPLETUN_TEST_PACKAGES"
    scripts/package.sh --debug --unchecked --version 0.1.0-2 "$SIMPLETUN_TEST_PACKAGES"
}

# Two hosts in one machine, for a script that the runner gave namespaces of its own: `local` and `remote`, joined by a
# cable. Their programs are started and stopped here and log to files in $scratch.
local_address=10.86.43.51
remote_address=10.86.43.52
pids=()

make_hosts() {
    local host
    scratch=$(mktemp -d)
    trap remove_hosts EXIT
    trap 'exit 1' INT TERM
    ip netns add local
    ip netns add remote
    ip link add eth0 netns local type veth peer name eth0 netns remote
    ip -n local address add "$local_address/24" dev eth0
    ip -n remote address add "$remote_address/24" dev eth0
    for host in local remote; do
        ip -n "$host" link set lo up
        ip -n "$host" link set eth0 up
    done
}

remove_hosts() {
    stop_all
    ip netns delete local 2>/dev/null || true
    ip netns delete remote 2>/dev/null || true
    rm -rf "$scratch"
}

# on HOST COMMAND…
on() {
    local host=$1
    shift
    ip netns exec "$host" "$@"
}

# start NAME HOST COMMAND…: in the background, with its output in $scratch/NAME. `$!` is the pid of the command itself,
# because `ip netns exec` becomes the command.
start() {
    local name=$1 host=$2
    shift 2
    ip netns exec "$host" "$@" </dev/null >"$scratch/$name" 2>&1 &
    pids+=($!)
}

stop_all() {
    [ ${#pids[@]} -gt 0 ] || return 0
    kill "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
    pids=()
}

# until_logged NAME TEXT
until_logged() {
    wait_for 15 grep -q -- "$2" "$scratch/$1" || {
        show_logs
        die "no '$2' from $1 within 15 s"
    }
}

# until_answered ADDRESS: from the local host.
until_answered() {
    wait_for 15 ip netns exec local ping -c 1 -W 1 "$1" || {
        show_logs
        die "no answer from $1 within 15 s"
    }
}

show_logs() {
    local log
    for log in "$scratch"/*; do
        [ -f "$log" ] || continue
        sed "s/^/${log##*/}: /" "$log" | tail -n 20 >&2
    done
}
