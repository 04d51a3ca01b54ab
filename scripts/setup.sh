#!/usr/bin/env bash
# Installs what building and testing need on a Debian machine. Run by the other scripts; does nothing twice.
#   setup.sh run     to build the kubelet and its demonstration images
#   setup.sh test    also what the tests need and compare with
#   setup.sh bench   also what only the benchmark compares with
set -euo pipefail

packages=(gcc libc6-dev curl)
what=${1:-run}
if [ "$what" = test ] || [ "$what" = bench ]; then
  packages+=(iproute2 nftables bsdutils qemu-system-x86 kmod cpio)
  # The other runtimes.
  packages+=(docker.io containerd containernetworking-plugins)
  # A registry, passwords for it, and another way to unpack images.
  packages+=(docker-registry apache2-utils umoci)
fi
if [ "$what" = bench ]; then
  packages+=(podman)
fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  # No service is to be started on this machine by an installation.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
elif ! apt-cache policy busybox-static 2>/dev/null | grep -q 'Candidate: [0-9]'; then
  # The images are made of packages that are downloaded, not installed: their list must be there.
  apt-get update -qq
fi

command -v cargo > /dev/null || {
  echo "cargo is needed: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml") or newer" >&2
  exit 1
}
