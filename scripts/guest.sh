#!/usr/bin/env bash
# Boots Debian's cloud kernel in QEMU, by software emulation and with nothing but cgroup v2, and runs PAYLOAD/run.sh in
# it as root. Prints the guest's console and exits as run.sh did (125: the guest never got that far).
#   guest.sh PAYLOAD [MEMORY_MIB]
# Needs the packages qemu-system-x86, kmod and cpio, and a package list (apt-get update).
set -euo pipefail

payload=$1
memory=${2:-2048}
cache=${GUEST_CACHE:-$HOME/.cache/kubelet-guest}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() { # PACKAGE DIR: unpacks a Debian package without installing it
  local into=$work/fetch
  mkdir -p "$into" "$2"
  (cd "$into" && apt-get download -qq "$1" > /dev/null)
  dpkg-deb -x "$into"/*.deb "$2"
  rm -rf "$into"
}

mkdir -p "$cache"
if [ ! -e "$cache/complete" ]; then
  kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
  fetch "$kernel" "$cache"
  fetch busybox-static "$cache"
  touch "$cache/complete"
fi
kernel=$(ls "$cache"/boot/vmlinuz-*)
release=${kernel##*/vmlinuz-}
busybox=$cache/bin/busybox
[ -e "$busybox" ] || busybox=$cache/usr/bin/busybox

root=$work/root
mkdir -p "$root"/{bin,dev,etc,modules,newroot,proc,root,run,sys,tmp}
cp "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
cp -r "$payload" "$root/payload"

# Modules in the order in which they must be loaded, dependencies first.
depmod -b "$cache" "$release" 2> /dev/null || true
for module in overlay veth bridge nf_tables nft_chain_nat nft_masq nf_nat; do
  modprobe -S "$release" -d "$cache" --show-depends "$module" 2> /dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' > "$work/modules"
number=100
while read -r module; do
  cp "$module" "$root/modules/$number-${module##*/}"
  number=$((number + 1))
done < "$work/modules"

# The root of an initramfs cannot be pivoted away from, so everything moves to a tmpfs first.
cat > "$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin
busybox mount -t tmpfs -o size=90%,mode=755 root /newroot
for dir in bin etc modules payload root run; do busybox cp -a /$dir /newroot/; done
busybox mkdir -p /newroot/dev /newroot/proc /newroot/sys /newroot/tmp /newroot/var/lib /newroot/var/log
busybox cp /second /newroot/second
exec busybox switch_root /newroot /second
INIT
cat > "$root/second" <<'SECOND'
#!/bin/sh
export PATH=/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /
for module in /modules/*; do insmod "$module" || echo "insmod $module failed"; done
ip link set lo up
hostname guest
cd /payload
sh ./run.sh
echo "GUEST-EXIT $?"
poweroff -f
SECOND
chmod +x "$root/init" "$root/second"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd"

timeout "${GUEST_TIMEOUT:-600}" qemu-system-x86_64 -accel tcg,thread=multi -M q35 -cpu max -smp 2 -m "$memory" \
  -nodefaults -nographic -no-reboot -serial stdio -kernel "$kernel" -initrd "$work/initrd" \
  -append "console=ttyS0 quiet panic=-1" < /dev/null | tee "$work/console" || true
code=$(tr -d '\r' < "$work/console" | sed -n 's/^GUEST-EXIT \([0-9]*\)$/\1/p' | tail -1)
exit "${code:-125}"
