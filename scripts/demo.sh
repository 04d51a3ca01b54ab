#!/usr/bin/env bash
# From a source tree to running pods: builds ./kubelet and two images from Debian packages, then walks through what a
# kubelet does, printing each command as one would type it and what it answers. Needs root; cleans up after itself.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "containers are started: run it as root" >&2; exit 1; }

# ---- printing -------------------------------------------------------------------------------------------------------

bold='' dim='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

say() { printf '\n%s# %s%s\n' "$dim" "$*" "$plain"; }
typed() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; }
# A command line as typed, run as it stands.
run() { typed "$1"; eval "$1"; }

# await SECONDS WHAT COMMAND…: looks until the command succeeds; the walk fails when it does not.
await() {
  local tries=$(($1 * 10)) what=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    kill -0 "$kubelet" 2> /dev/null || fail "the kubelet has ended while waiting: $what"
    [ "$tries" -gt 0 ] || fail "not in time: $what"
    tries=$((tries - 1))
    sleep 0.1
  done
}

fail() { printf '\n%s\n' "$*" >&2; exit 1; }

# ---- where the demonstration lives ----------------------------------------------------------------------------------

work=$(mktemp -d /tmp/kubelet-demo.XXXX)
run_dir=/run/${work##*/}
log=$work/kubelet.log
kubelet=
made_manifests=

finish() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ] && [ -s "$log" ]; then
    printf '\nthe kubelet said:\n' >&2
    tail -n 60 "$log" >&2
  fi
  rm -f manifests/nginx.yaml
  if [ -n "$kubelet" ] && kill -0 "$kubelet" 2> /dev/null; then
    for _ in $(seq 300); do
      pod_list=$(curl -sf --max-time 5 "localhost:$port/pods") || break
      case $pod_list in *'"name"'*) sleep 0.1 ;; *) break ;; esac
    done
    kill "$kubelet" 2> /dev/null || true
    wait "$kubelet" 2> /dev/null || true
  fi
  [ -z "$made_manifests" ] || rmdir manifests 2> /dev/null || true
  if ! rm -rf "$work" "$run_dir" 2> /dev/null; then
    printf 'left behind: %s %s\n' "$work" "$run_dir" >&2
    status=1
  fi
  [ "$status" = 0 ] || exit 1
}
trap finish EXIT

# A port that nobody listens on: the usual one if it can be had.
free_port() {
  local port=$1
  while (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; do port=$((port + 1)); done
  echo "$port"
}
port=$(free_port 10255)
healthz_port=$(free_port 10248)

[ ! -e manifests ] || [ -z "$(ls -A manifests)" ] || fail "$PWD/manifests holds files already: move them away first"

# ---- the build ------------------------------------------------------------------------------------------------------

say "what the build needs, the kubelet, and two images from Debian packages"
run "scripts/setup.sh run"
run "cargo build --release -p kubelet"
# Written beside and renamed: a kubelet that runs from this file keeps its own.
cp target/x86_64-unknown-linux-gnu/release/kubelet .kubelet.new && mv .kubelet.new kubelet
run "scripts/images.sh target/test-images busybox nginx"
run "ls -sh kubelet target/test-images"

mkdir -p "$work/root/images"
cp target/test-images/busybox.tar target/test-images/nginx.tar "$work/root/images/"
[ -d manifests ] || { mkdir manifests; made_manifests=yes; }


# ---- the walk -------------------------------------------------------------------------------------------------------

say "a kubelet that watches an empty directory; its images lie in $work/root/images"
flags=(--root-dir="$work/root" --run-dir="$run_dir" --pod-logs-dir="$work/logs")
[ "$port" = 10255 ] || flags+=(--read-only-port="$port")
[ "$healthz_port" = 10248 ] || flags+=(--healthz-port="$healthz_port")
# Another kubelet on this machine keeps its bridge, addresses and control groups to itself.
if [ -e /sys/class/net/kubelet0 ]; then
  flags+=(--pod-bridge=demo0 --pod-cidr=10.82.0.0/24 --cgroup-root="/${work##*/}")
fi
# shellcheck disable=SC2016
typed './kubelet --config=$PWD/manifests \'
printf '    %s \\\n' "${flags[@]:0:${#flags[@]}-1}"
printf '    %s &\n' "${flags[-1]}"
./kubelet --config="$PWD/manifests" "${flags[@]}" > "$log" 2>&1 < /dev/null &
kubelet=$!

at="--run-dir=$run_dir"
healthy() { [ "$(curl -sf "localhost:$port/healthz")" = ok ]; }
listed() { ./kubelet image list "$at" | grep -q "$1"; }
await 30 "the kubelet is healthy" healthy
await 60 "the images are imported" listed nginx
await 60 "the images are imported" listed busybox
run "curl -s localhost:$port/healthz; echo"
run "./kubelet image list $at"
run "./kubelet ps $at"

say "a pod: drop its manifest into the directory"
run "cat examples/nginx.yaml"
run "cp examples/nginx.yaml manifests/nginx.yaml"
# pod_runs CONTAINERS: so many containers of the pod are running, and it has an address.
pod_runs() { [ "$(./kubelet ps "$at" | grep -c ' Running ')" = "$1" ] && [ -n "$(pod_ip)" ]; }
pod_ip() { curl -sf "localhost:$port/pods" | grep -o '"podIP": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
pod_uid() { curl -sf "localhost:$port/pods" | grep -o '"uid": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
answers() { curl -sf --max-time 2 "http://$(pod_ip)/"; }
await 30 "the pod runs" pod_runs 1
await 30 "nginx answers" answers
run "./kubelet ps $at"
run "curl -s http://$(pod_ip)/ | grep title"

say "the same pod with a second container that empties the access log every ten seconds"
first_uid=$(pod_uid)
run "tail -n +7 examples/nginx-with-truncator.yaml"
run "cp examples/nginx-with-truncator.yaml manifests/nginx.yaml"
replaced() { [ "$(pod_uid)" != "$first_uid" ] && pod_runs 2; }
await 60 "the pod is replaced" replaced
await 30 "nginx answers" answers
run "./kubelet ps $at"

say "both containers see one volume: requests appear in the log, and vanish"
# shellcheck disable=SC2034
for request in 1 2 3; do run "curl -s -o /dev/null -w '%{http_code}\n' http://$(pod_ip)/"; done
read_log="./kubelet exec $at nginx -c log-truncator -- cat /logdir/access.log"
log_has_lines() { [ -n "$($read_log)" ]; }
log_is_empty() { ! log_has_lines; }
# The log may have been emptied between the requests and the look.
log_has_lines || { answers > /dev/null; }
run "$read_log"
await 15 "the log is emptied" log_is_empty
say "ten seconds later"
run "./kubelet exec $at nginx -c log-truncator -- wc -c /logdir/access.log"

say "kill a container: it is started again, and its pod stays what it was"
# The first process called nginx in a control group of this pod.
nginx_pid() {
  local uid process
  uid=$(pod_uid)
  for process in $(grep -ls "$uid" /proc/[0-9]*/cgroup | sort -t / -k 3 -n); do
    process=${process%/cgroup}
    [ "$(cat "$process/comm")" = nginx ] && { echo "${process##*/}"; return; }
  done
}
victim=$(nginx_pid) || true
[ -n "$victim" ] || fail "no process of nginx in the pod's control group"
run "kill -9 $victim    # nginx's first process"
restarted() { ./kubelet ps "$at" | grep -q ' nginx  *Running  *1 '; }
await 30 "nginx is restarted" restarted
await 30 "nginx answers" answers
run "./kubelet ps $at"

say "what the machine and its pods are, over HTTP"
# Not head: it would end curl with an error.
run "curl -s localhost:$port/pods | fold -w 118 | sed -n 1,6p"
run "curl -s localhost:$port/spec/ | fold -w 118 | sed -n 1,6p"

say "take the manifest away: the pod ends, and nothing is left"
run "rm manifests/nginx.yaml"
no_pods() { [ "$(./kubelet ps "$at")" = "no pods" ]; }
await 60 "the pod is gone" no_pods
run "./kubelet ps $at"
run "ls $work/root/pods $work/logs"

say "a pod with a whole life: a container that prepares it, a sidecar, probes and hooks"
run "cat examples/site.yaml"
run "cp examples/site.yaml manifests/site.yaml"
site_ready() { ./kubelet ps "$at" | grep -q ' 2/2 .* nginx '; }
await 30 "the site is ready" site_ready
run "./kubelet ps $at"
run "curl -s http://$(pod_ip)/ http://$(pod_ip)/now.html"

say "without its page nginx fails its liveness probe, is stopped and started again; the page is put back meanwhile"
run "./kubelet exec $at site -c clock -- mv /site/index.html /site/kept"
await 60 "nginx is restarted" restarted
run "./kubelet exec $at site -c clock -- mv /site/kept /site/index.html"
await 60 "the site is ready" site_ready
run "./kubelet events $at site"
run "./kubelet describe $at site"

say "it ends in order: nginx after its preStop hook, then the sidecar"
run "rm manifests/site.yaml"
await 60 "the pod is gone" no_pods
run "./kubelet events $at site | tail -n 2"

say "that was the walk; the kubelet is in ./kubelet"
run "kill $kubelet    # the kubelet"
wait "$kubelet" || fail "the kubelet ended with status $?"
kubelet=
