#!/bin/bash
# Runs tunnels of all kinds through random faults: scripts/soak.sh MINUTES [SEED]
# Each kind, plain and secure, over TCP and UDP, runs this long beside the others. The same seed gives the same faults.
# Exit code 0: traffic went on after each of them, and neither memory nor descriptors piled up.
set -eu
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"

minutes=${1:-} seed=${2:-$RANDOM}
[[ $minutes =~ ^[1-9][0-9]*$ ]] || die "'$minutes' is not a number of minutes: scripts/soak.sh MINUTES [SEED]"
[[ $seed =~ ^[0-9]+$ ]] || die "'$seed' is not a seed: it is a number"
say "Soaking for $minutes minutes with the seed $seed"
export SIMPLETUN_SOAK_SECONDS=$((minutes * 60)) SIMPLETUN_SOAK_SEED=$seed
exec "$root/scripts/test.sh" --profile soak --test suite soak:: --success-output immediate
