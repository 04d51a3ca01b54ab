#!/bin/sh
# The walk in a guest with nothing but cgroup v2: run by scripts/guest.sh, as root, with busybox only.
set -u
kubelet=/payload/kubelet
manifests=/tmp/manifests

fail() {
  echo "FAILED: $*"
  echo "--- ps"; $kubelet ps
  echo "--- mounts, control groups, links"; cat /proc/mounts; find /sys/fs/cgroup -type d; ls /sys/class/net
  echo "--- log"; tail -n 40 /tmp/kubelet.log
  exit 1
}

# Looks every tenth of a second, for a minute at most: emulated, everything takes ten times as long.
await() { # WHAT COMMAND...
  what=$1; shift; tries=0
  until "$@" > /dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 600 ] || fail "$what"
    usleep 100000
  done
  echo "ok: $what"
}

start() {
  $kubelet --config=$manifests --hostname-override=guest >> /tmp/kubelet.log 2>&1 &
  pid=$!
  await "the kubelet is healthy" wget -q -O /dev/null http://127.0.0.1:10248/healthz
}
running() { [ "$($kubelet ps | grep -c Running)" = "$1" ]; }
images() { [ "$($kubelet image list | grep -c docker.io)" = 2 ]; }
empty() { [ "$($kubelet ps)" = "no pods" ]; }
ip_of() { $kubelet ps | grep "$1" | grep -oE '10\.83\.[0-9]+\.[0-9]+' | head -1; }
answers() { wget -q -O - "http://$(ip_of nginx-guest)/" | grep -qi nginx; }
# The first process of each container: what it starts itself may come and go.
inits() {
  for p in $(cat /sys/fs/cgroup/kubepods/besteffort/pod*/*/cgroup.procs); do
    grep -qs '^NSpid:.*[[:space:]]1$' /proc/$p/status && echo $p
  done | sort -n
}
mounts() { grep -c . /proc/mounts; }
groups() { find /sys/fs/cgroup -type d | wc -l; }
mounts_as_before() { [ "$(mounts)" = "$mounts_before" ]; }
groups_as_before() { [ "$(groups)" = "$groups_before" ]; }
only_loopback() { [ "$(ls /sys/class/net | tr '\n' ' ')" = "lo " ]; }
count() { find "$1" -mindepth 1 2>/dev/null | wc -l; }

mkdir -p $manifests /var/lib/kubelet/images
cp /payload/images/*.tar /var/lib/kubelet/images/
mounts_before=$(mounts); groups_before=$(groups)
start
await "both images are imported" images

cp /payload/nginx.yaml $manifests/nginx.yaml
await "one container runs" running 1
await "nginx answers" answers
cp /payload/two.yaml $manifests/nginx.yaml
await "two containers run" running 2
await "nginx answers again" answers
$kubelet exec nginx -c log-truncator -- cat /logdir/access.log > /dev/null || fail "exec"
[ "$($kubelet exec nginx -c log-truncator -- cat /proc/self/cgroup)" = "0::/" ] || fail "a cgroup namespace of its own"
$kubelet exec nginx -c log-truncator -- sh -c 'mkdir /sys/fs/cgroup/x' 2> /dev/null && fail "cgroups are read-only"
$kubelet exec nginx -c log-truncator -- sh -c 'mknod /dev/mem2 c 1 1 && cat /dev/mem2' > /dev/null 2>&1 && fail "devices are denied"

before=$(inits)
[ "$(echo "$before" | wc -l)" = 2 ] || fail "two containers have two first processes: $before"
kill -9 $pid; wait $pid 2> /dev/null
start
await "two containers still run" running 2
[ "$(inits)" = "$before" ] || fail "containers keep their pids: $before became $(inits)"
echo "ok: kill -9 of the kubelet changed nothing"

kill -9 "$(for p in $before; do grep -l nginx /proc/$p/comm 2> /dev/null; done | head -1 | cut -d/ -f3)"
restarted() { $kubelet ps | grep -E ' nginx +Running +1 '; }
await "a killed container is restarted" restarted

cp /payload/oom.yaml $manifests/oom.yaml
oomed() { $kubelet ps | grep -E 'OOMKilled \(137\)'; }
await "a container over its memory limit is OOMKilled" oomed

rm $manifests/*
await "no pods are left" empty
kill $pid; wait $pid || fail "the kubelet ended with $?"
# The kernel takes these away a moment after the last process and file.
await "no mounts are left behind" mounts_as_before
await "no control groups are left behind" groups_as_before
await "no links are left behind" only_loopback
for dir in /var/lib/kubelet/pods /var/lib/kubelet/containers /var/log/pods /run/kubelet/sandboxes; do
  [ "$(count $dir)" = 0 ] || { find $dir; fail "files left in $dir"; }
done
for p in /proc/[0-9]*; do grep -qs sandboxes $p/cmdline && fail "a process is left: $(tr '\0' ' ' < $p/cmdline)"; done
echo "ok: the census is clean"
