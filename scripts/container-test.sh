#!/bin/bash
# Runs the tests in containers with systemd, and makes what they need: scripts/container-test.sh [arguments for cargo
# nextest run…]. Needs root.
set -eu
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
cd "$root"

prepare_containers
cargo nextest --version >/dev/null 2>&1 || die "run scripts/test.sh first, which installs cargo-nextest"
triple=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
env "CARGO_TARGET_${triple}_RUNNER=$runner" cargo nextest run --test suite -E 'test(/^containers::/)' "$@"
