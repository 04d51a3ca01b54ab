#!/usr/bin/env bash
# Measures the kubelet side by side with Docker on this machine and prints a table (about ten minutes, as root).
#   bench.sh --quick                 fewer samples, 20 pods: about two minutes
#   bench.sh --only start            only one measure; see bench.sh --help
#   bench.sh --json FILE             the figures as JSON too
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh test
cargo build --release -p kubelet -p bench
exec target/x86_64-unknown-linux-gnu/release/bench "$@"
