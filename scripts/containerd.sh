#!/bin/bash
# A containerd of a test's own: its directories, its bridge, its network plugins' state, beside whatever else runs here.
#
#   containerd.sh fetch-sid DIR     containerd of Debian sid, unpacked into DIR/usr/bin; nothing is installed
#   containerd.sh start DIR [BIN]   starts BIN/containerd (default /usr/bin) with everything beneath DIR, waits until it
#                                   answers at DIR/containerd.sock and gives it the images busybox, nginx and pause
#   containerd.sh restart DIR       starts it again after a kill, with the same configuration
#   containerd.sh stop DIR          ends it with all that it runs, and removes DIR
#
# Needs the Debian packages containerd (for runc and ctr as well), containernetworking-plugins and busybox-static. Its log
# is DIR/log, its process id DIR/pid. The images are made by images.sh into target/test-images, or found in TEST_IMAGES.
set -euo pipefail
export LC_ALL=C

usage() { sed -n '4,8s/^# *//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || usage
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)

# Debian sid's containerd, whatever its version, beside Debian 12's runc; that of trixie where sid's is not to be had or is
# made for a newer system than this. The suite is taken from this machine's own package sources, each in turn, three times:
# none of them may have it, and networks fail.
fetch_sid() {
  [ ! -x "$dir/usr/bin/containerd" ] || return 0
  local try suite uri
  # Beside its place, into which it goes whole or not at all.
  work=$(mktemp -d "$dir.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  for try in 1 2 3; do
    if [ -z "$(debian_sources)" ]; then
      apt-get -q update >&2 || true
    fi
    for suite in sid trixie; do
      for uri in $(debian_sources); do
        if fetch_from "$uri" "$suite" && "$work/new/usr/bin/containerd" --version >&2; then
          rm -rf "$dir"
          mv "$work/new" "$dir"
          return 0
        fi
        echo "no containerd of Debian $suite that runs here" >&2
      done
    done
    echo "attempt $try of 3 to fetch a newer containerd failed" >&2
    sleep $((try * 5))
  done
  echo "none of this machine's package sources gives a newer containerd; expected in the files beneath /etc/apt: a source" \
    "of Debian's own archive that can be reached, and whose suite \"sid\" or \"trixie\" is there" >&2
  exit 1
}

# Where the machine's own packages come from, one address a line; the archive itself before its updates for security.
debian_sources() {
  apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' | sort -ru
}

# fetch_from URI SUITE: unpacks it into $work/new.
fetch_from() {
  rm -rf "$work"/*
  mkdir -p "$work"/{lists/partial,cache/archives/partial,download,new}
  echo "deb $1 $2 main" > "$work/sources.list"
  local options=(-q -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists"
    -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3
    -o Acquire::http::Timeout=60
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
  apt-get "${options[@]}" update >&2 &&
    (cd "$work/download" && apt-get "${options[@]}" download containerd >&2) &&
    dpkg -x "$work"/download/containerd_*.deb "$work/new"
}

# configure BIN: the version is that of containerd 1.6's format, which later ones migrate.
configure() {
  local number
  number=$(printf '%s' "$dir" | cksum | cut -d' ' -f1)
  mkdir -p "$dir"/cni/conf
  echo "$1" > "$dir/bin"
  # On machines without CAP_SYS_RESOURCE no oom_score_adj can be lowered.
  cat > "$dir/config.toml" <<END
version = 2
root = "$dir/root"
state = "$dir/state"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "kubelet.local/pause:test"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni/conf"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"
END
  cat > "$dir/cni/conf/10-pods.conflist" <<END
{"cniVersion":"0.4.0","name":"t$number","plugins":[{"type":"bridge","bridge":"ct$((number % 1000000))","isGateway":true,
"ipam":{"type":"host-local","ranges":[[{"subnet":"10.2$((number % 50)).$((number / 50 % 250)).0/24"}]],
"routes":[{"dst":"0.0.0.0/0"}],"dataDir":"$dir/cni/data"}}]}
END
}

launch() {
  local bin
  bin=$(cat "$dir/bin")
  # In a session of its own, with its own shim first in its path.
  PATH=$bin:$PATH setsid "$bin/containerd" --config "$dir/config.toml" >> "$dir/log" 2>&1 < /dev/null &
  echo $! > "$dir/pid"
  for _ in $(seq 300); do
    if "$bin/ctr" --address "$dir/containerd.sock" version > /dev/null 2>&1; then
      return 0
    fi
    kill -0 "$(cat "$dir/pid")" 2> /dev/null || break
    sleep 0.1
  done
  echo "containerd does not answer; its log ends:" >&2
  tail -n 20 "$dir/log" >&2
  exit 1
}

start() {
  local images=${TEST_IMAGES:-$here/../target/test-images} image
  configure "${1:-/usr/bin}"
  [ -e "$images/pause.tar" ] && [ -e "$images/busybox.tar" ] && [ -e "$images/nginx.tar" ] ||
    "$here/images.sh" "$images" busybox nginx pause >&2
  launch
  for image in pause busybox nginx; do
    ctr --address "$dir/containerd.sock" --namespace k8s.io images import "$images/$image.tar" > /dev/null
  done
}

# forget_networks NUMBER: the plugins note what they made, for each sandbox that was not removed.
forget_networks() {
  local note id netns
  for note in "/var/lib/cni/results/t$1-"*; do
    [ -e "$note" ] || continue
    netns=$(sed -n 's|.*"sandbox":"/var/run/netns/\([^"/]*\)".*|\1|p' "$note")
    [ -z "$netns" ] || ip netns delete "$netns" || true
    id=${note#"/var/lib/cni/results/t$1-"}
    rm -f "$note" "/var/lib/cni/results/cni-loopback-${id%-eth0}-lo"
  done
  ip link delete "ct$(($1 % 1000000))" 2> /dev/null || true
}

# What the tests removed through containerd is gone already; this is for what they left.
stop() {
  local pid ctr=(ctr --address "$dir/containerd.sock" --namespace k8s.io)
  if [ -e "$dir/pid" ] && pid=$(cat "$dir/pid") && kill -0 "$pid" 2> /dev/null; then
    "${ctr[@]}" tasks ls --quiet 2> /dev/null | while read -r id; do
      "${ctr[@]}" tasks rm --force "$id" > /dev/null 2>&1 || true
    done
    kill "$pid"
    for _ in $(seq 100); do
      kill -0 "$pid" 2> /dev/null || break
      sleep 0.1
    done
    kill -9 "$pid" 2> /dev/null || true
  fi
  sed -n "s|^[^ ]* \($dir/[^ ]*\) .*|\1|p" /proc/mounts | sort -r | while read -r mounted; do
    umount -l "$mounted" || true
  done
  if [ -e "$dir/cni/conf/10-pods.conflist" ]; then
    forget_networks "$(printf '%s' "$dir" | cksum | cut -d' ' -f1)"
  fi
  rm -rf "$dir"
}

case $command in
  fetch-sid) fetch_sid ;;
  start) start "${3:-}" ;;
  restart) launch ;;
  stop) stop ;;
  *) usage ;;
esac
