#!/bin/bash
# Makes image archives from Debian packages: busybox.tar (as "docker save" writes it) and nginx.tar (an OCI image layout);
# on demand pause.tar, a program that stays, for the sandboxes of other runtimes.
# Usage: images.sh OUTDIR [busybox|nginx|pause]...
#
# Nothing is installed and no container engine is needed. The same packages give the same bytes: times are fixed, names
# sorted. An archive is kept when it was made by this very script.
set -euo pipefail
export LC_ALL=C
umask 022

[ $# -ge 1 ] || { echo "usage: $0 OUTDIR [busybox|nginx|pause]..." >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
[ $# -ge 1 ] || set -- busybox nginx

arch=$(dpkg --print-architecture)
created=2024-01-01T00:00:00Z
stamp=$(sha256sum "$0" | cut -d' ' -f1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sha() { sha256sum "$1" | cut -d' ' -f1; }

# pack DIR FILE: a tar archive in which everything is root's, or as the name says.
pack() {
  tar --create --file="$2" --directory="$1" --format=posix --sort=name --numeric-owner --owner=0 --group=0 \
    --mtime="$created" --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime .
}

# package_file PACKAGE PATH: prints where PATH of PACKAGE can be read, from the running system if it is installed there.
package_file() {
  if [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ] && [ -e "$2" ]; then
    echo "$2"
    return
  fi
  unpack_package "$1"
  [ -e "$work/packages/$1$2" ] || { echo "package $1 has no $2" >&2; return 1; }
  echo "$work/packages/$1$2"
}

# unpack_package PACKAGE: its files in $work/packages/PACKAGE, without installing it.
unpack_package() {
  [ ! -d "$work/packages/$1" ] || return 0
  mkdir -p "$work/packages/$1" "$work/download"
  if ! (cd "$work/download" && apt-get download -q "$1" >&2); then
    echo "cannot download $1: run \"apt-get update\" as root first, or install it" >&2
    return 1
  fi
  dpkg -x "$work/download/$1"_*.deb "$work/packages/$1"
}

# accounts DIR: the users and groups of a small Debian.
accounts() {
  mkdir -p "$1/etc"
  cat > "$1/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
END
  cat > "$1/etc/group" <<'END'
root:x:0:
daemon:x:1:
www-data:x:33:
nogroup:x:65534:
END
}

# skeleton DIR: directories that every container expects.
skeleton() {
  mkdir -p "$1"/{dev,etc,proc,root,run,sys,tmp,var/tmp}
  chmod 700 "$1/root"
  chmod 1777 "$1/tmp" "$1/var/tmp"
}

# config FILE COMMAND LAYER...: an image configuration; COMMAND is a JSON list.
config() {
  local file=$1 command=$2 ids=
  shift 2
  for layer in "$@"; do
    ids=$ids${ids:+,}\"sha256:$(sha "$layer")\"
  done
  printf '{"architecture":"%s","os":"linux","created":"%s","config":{"Env":["PATH=%s"],"Cmd":%s,"WorkingDir":"/"},' \
    "$arch" "$created" /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$command" > "$file"
  printf '"rootfs":{"type":"layers","diff_ids":[%s]},"history":[]}' "$ids" >> "$file"
}

make_busybox() {
  local root=$work/busybox/root image=$work/busybox/image busybox
  skeleton "$root"
  accounts "$root"
  mkdir -p "$root/bin" "$image"
  busybox=$(package_file busybox-static /bin/busybox)
  cp "$busybox" "$root/bin/busybox"
  chmod 755 "$root/bin/busybox"
  "$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  save "$root" "$image" docker.io/library/busybox:latest '["sh"]'
  pack "$image" "$1"
}

# save ROOT IMAGE NAME COMMAND: an image of one layer as "docker save" lays it out.
save() {
  local id
  pack "$1" "$2/layer.tar"
  config "$2/config" "$4" "$2/layer.tar"
  id=$(sha "$2/config")
  mv "$2/config" "$2/$id.json"
  printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$id" "$3" > "$2/manifest.json"
}

make_pause() {
  local root=$work/pause/root image=$work/pause/image
  mkdir -p "$root" "$image"
  cp "$(package_file busybox-static /bin/busybox)" "$root/sleep"
  chmod 755 "$root/sleep"
  # Busybox goes by its own name. 68 years: it is killed when its sandbox ends.
  save "$root" "$image" kubelet.local/pause:test '["/sleep","2147483647"]'
  pack "$image" "$1"
}

# libraries DIR PROGRAM: copies what PROGRAM is linked with, and the loader, to where it looks for them.
libraries() {
  local root=$1 path package
  ldd "$2" | sed -n 's|.*=> \(/[^ ]*\) (.*|\1|p; s|^[[:space:]]*\(/[^ ]*\) (.*|\1|p' | sort -u | while read -r path; do
    mkdir -p "$root${path%/*}"
    cp -L "$path" "$root$path"
  done
  if ldd "$2" | grep -q 'not found'; then
    for package in $(missing_library_packages "$2"); do
      unpack_package "$package"
      find "$work/packages/$package" -name '*.so*' ! -type d | while read -r path; do
        path=${path#"$work/packages/$package"}
        mkdir -p "$root${path%/*}"
        cp -L "$work/packages/$package$path" "$root$path"
      done
    done
  fi
}

# missing_library_packages PROGRAM: library packages that the nginx package depends on and the system lacks.
missing_library_packages() {
  apt-cache depends nginx | sed -n 's/^ *Depends: \(lib[a-z0-9.+-]*\)$/\1/p' | while read -r package; do
    [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || echo "$package"
  done
}

nginx_base() {
  local root=$1 busybox
  skeleton "$root"
  accounts "$root"
  # Debian's own layout: /bin, /lib … are links into /usr.
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
  for name in bin sbin lib lib64; do
    ln -s "usr/$name" "$root/$name"
  done
  busybox=$(package_file busybox-static /bin/busybox)
  cp "$busybox" "$root/usr/bin/busybox"
  chmod 755 "$root/usr/bin/busybox"
  for applet in sh cat ls ps kill sleep wget grep tail head id hostname; do
    ln -s busybox "$root/usr/bin/$applet"
  done
  libraries "$root" "$2"
}

nginx_top() {
  local root=$1
  mkdir -p "$root"/etc/nginx "$root"/usr/sbin "$root"/usr/share/nginx/html "$root"/var/log/nginx \
    "$root"/var/lib/nginx/{body,fastcgi,proxy,scgi,uwsgi} "$root"/usr/share/nginx/modules
  cp "$2" "$root/usr/sbin/nginx"
  chmod 755 "$root/usr/sbin/nginx"
  cat > "$root/etc/nginx/nginx.conf" <<'END'
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;

events {
	worker_connections 512;
}

http {
	default_type text/plain;
	types {
		text/html html;
	}
	access_log /var/log/nginx/access.log;

	server {
		listen 80;
		root /usr/share/nginx/html;
		index index.html;
	}
}
END
  cat > "$root/usr/share/nginx/html/index.html" <<'END'
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1></body>
</html>
END
}

# blob LAYOUT FILE: moves FILE into the layout by its digest and prints its digest and size as a descriptor's fields.
blob() {
  local digest size
  digest=$(sha "$2")
  size=$(stat -c %s "$2")
  mv "$2" "$1/blobs/sha256/$digest"
  printf '"digest":"sha256:%s","size":%s' "$digest" "$size"
}

make_nginx() {
  local layout=$work/nginx/layout base=$work/nginx/base.tar top=$work/nginx/top.tar manifest=$work/nginx/manifest
  local nginx layers= layer descriptor
  mkdir -p "$layout/blobs/sha256"
  nginx=$(package_file nginx /usr/sbin/nginx)
  nginx_base "$work/nginx/base" "$nginx"
  nginx_top "$work/nginx/top" "$nginx"
  pack "$work/nginx/base" "$base"
  pack "$work/nginx/top" "$top"
  config "$work/nginx/config" '["nginx","-g","daemon off;"]' "$base" "$top"
  for layer in "$base" "$top"; do
    gzip -n -6 "$layer"
    layers=$layers${layers:+,}'{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",'$(blob "$layout" "$layer.gz")'}'
  done
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",' > "$manifest"
  printf '"config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[%s]}' \
    "$(blob "$layout" "$work/nginx/config")" "$layers" >> "$manifest"
  descriptor=$(blob "$layout" "$manifest")
  printf '{"imageLayoutVersion":"1.0.0"}' > "$layout/oci-layout"
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,%s}]}' "$descriptor" \
    '"annotations":{"org.opencontainers.image.ref.name":"docker.io/library/nginx:latest"}' > "$layout/index.json"
  pack "$layout" "$1"
}

for image in "$@"; do
  case $image in
    busybox | nginx | pause) ;;
    *) echo "unknown image $image: expected busybox, nginx or pause" >&2; exit 2 ;;
  esac
  if [ -e "$out/$image.tar" ] && [ "$(cat "$out/.$image.made-by" 2>/dev/null)" = "$stamp" ]; then
    continue
  fi
  "make_$image" "$work/$image.tar"
  # Whole or not at all: a kubelet may be watching the directory.
  cp "$work/$image.tar" "$out/.$image.tar.new"
  mv "$out/.$image.tar.new" "$out/$image.tar"
  echo "$stamp" > "$out/.$image.made-by"
  echo "made $out/$image.tar"
done
