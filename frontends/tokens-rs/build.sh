#!/bin/sh
# Build the front-end, or run another cargo command on it: build.sh [test ARGS | clippy ARGS | ...].
#
# Crates come from Debian's librust-*-dev packages where they are installed, and from crates.io otherwise. There is no
# Cargo.lock in the repository: Debian has one version of each crate, crates.io users want the newest that fit, and a
# lock file would hold both to versions that one of them does not have.
#
# Exit status 77: cargo or the crates are missing; what to install has been printed.
set -eu
cd "$(dirname "$0")"
debian=/usr/share/cargo/registry
packages="librust-bytes-dev librust-getrandom-dev librust-hmac-dev librust-hyper-dev librust-rmp-serde-dev
  librust-serde-dev librust-serde-json-dev librust-sha2-dev librust-socket2-dev librust-tokio-dev"

command -v cargo >/dev/null || {
  echo "cargo is not installed: get Rust 1.70 or newer (https://rustup.rs)" >&2
  exit 77
}

from_debian=yes
for crate in bytes getrandom hmac hyper rmp-serde serde serde_json sha2 socket2 tokio; do
  ls -d "$debian/$crate-"[0-9]* >/dev/null 2>&1 || from_debian=no
done

command=${1:-build}
[ $# -gt 0 ] && shift
[ "$command" = build ] && set -- --release "$@"

if [ $from_debian = yes ]; then
  # One made from crates.io names versions that are not here.
  rm -f Cargo.lock
  exec cargo "$command" --offline --config 'source.crates-io.replace-with="debian"' \
    --config "source.debian.directory=\"$debian\"" "$@"
fi

cargo fetch --quiet || {
  printf 'crates.io is out of reach. Debian and Ubuntu have the crates too:\n  apt-get install --no-install-recommends %s\n' \
    "$(echo $packages)" >&2
  exit 77
}
exec cargo "$command" "$@"
