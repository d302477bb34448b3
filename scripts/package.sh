#!/bin/bash
# Makes the Debian package: scripts/package.sh [--debug] [--unchecked] [--version VERSION] [DIRECTORY]
# The package is put into DIRECTORY (target/debian), its name is printed. --debug packs the debug build, for tests;
# --unchecked does not ask lintian.
# Installs what this needs and the machine lacks.
set -eu
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/lib.sh"
cd "$root"

build=--release directory='' is_checked=yes
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-1
while [ $# -gt 0 ]; do
    case $1 in
    --debug) build='' ;;
    --unchecked) is_checked='' ;;
    --version) version=$2 && shift ;;
    -*) die "unknown option $1" ;;
    *) directory=$1 ;;
    esac
    shift
done
target=$(target_directory)
mkdir -p "${directory:=$target/debian}"

install_missing dpkg-dev lintian >&2
if ! cargo deb --version >/dev/null 2>&1; then
    say "Installing cargo-deb, which makes the package" >&2
    cargo install --locked --debug cargo-deb >&2
fi

if [ "$build" = --release ]; then
    cargo build --quiet --locked --release --bin simpletun
fi
# Together, so that the debug build is the one of the tests.
cargo build --quiet --locked --bin simpletun --example paper
# What cargo-deb packs, at the places where it looks: the program, and what is made of its definitions.
stage=$target/package
profile=${build:+release}
rm -rf "$stage"
mkdir -p "$stage/release" "$stage/release/paper"
cp "$target/${profile:-debug}/simpletun" "$stage/release/"
# The date of the last change, and not of the build, so that the same sources make the same package.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH=$epoch
"$target/debug/examples/paper" "$stage/release/paper" "$(date -u -d "@$epoch" +%F)"
gzip -9n "$stage"/release/paper/simpletun*.[58]
gzip -9n <docs/CHANGELOG.md >"$stage/release/paper/changelog.gz"
gzip -9n >"$stage/release/paper/changelog.Debian.gz" <<END
simpletun ($version) unstable; urgency=medium

  * See changelog.gz.

 -- $(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)  $(LC_ALL=C date -u -R -d "@$epoch")
END
package=$(CARGO_TARGET_DIR=$stage cargo deb --quiet --locked --no-build --no-dbgsym --strip --deb-version "$version" \
    --output "$directory/" | tail -n 1)
[ -z "$is_checked" ] || lintian --fail-on error "$package" >&2
printf '%s\n' "$package"
