#!/usr/bin/env bash
# All tests, from nothing: installs what they need, builds the kubelet and the images, runs the unit tests and then the
# end-to-end suites (as root, on this machine's kernel and in an emulated one; with the embedded engine, and with a
# dockerd and a containerd of their own). Leaves nothing running.
#   test.sh          everything
#   test.sh unit     without the end-to-end suites
# What runs on Debian 12's containerd runs on that of Debian sid as well, which is fetched and not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-all}
scripts/setup.sh test

step() { printf '\n== %s\n' "$*"; }

step "build"
cargo build --release -p kubelet
scripts/images.sh target/test-images busybox nginx pause
scripts/containerd.sh fetch-sid target/containerd-sid

step "unit tests"
# Among them the ways to Docker and to CRI runtimes: each of these tests starts the daemon that it needs.
cargo test --workspace --exclude e2e --exclude sim

step "simulated worlds"
cargo test -p sim

if [ "$what" = all ]; then
  step "end-to-end suites"
  # One at a time: each takes a census of the whole machine.
  cargo test -p e2e -- --test-threads=1
fi
