#!/usr/bin/env bash
# All tests, from nothing: installs what they need, builds the kubelet and the images, runs the unit tests and then the
# end-to-end suites (as root, on this machine's kernel and in an emulated one). Leaves nothing running.
#   test.sh          everything
#   test.sh unit     without the end-to-end suites
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-all}
scripts/setup.sh test

step() { printf '\n== %s\n' "$*"; }

step "build"
cargo build --release -p kubelet
scripts/images.sh target/test-images

step "unit tests"
cargo test --workspace --exclude e2e

if [ "$what" = all ]; then
  step "end-to-end suites"
  # One at a time: each takes a census of the whole machine.
  cargo test -p e2e -- --test-threads=1
fi
