#!/usr/bin/env bash
# Measures the kubelet with each runtime side by side with Docker by itself, and prints a table (about twenty minutes, as
# root).
#   bench.sh --quick                 fewer samples, 20 pods: about five minutes
#   bench.sh embedded docker-run     only these columns; also docker-through-us, containerd-through-us
#   bench.sh --only start            only one measure; see bench.sh --help
#   bench.sh --json FILE             the figures as JSON too
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh bench
cargo build --release -p kubelet -p bench
exec target/x86_64-unknown-linux-gnu/release/bench "$@"
