#!/usr/bin/env bash
# The base images that the example and the tests start from: viking/busybox:1, viking/redis:1, viking/node:1 and
# viking/registry:2. An image that is there is left alone. Otherwise the well-known one is pulled and given our
# name; where no registry can be reached, a small image is made from Debian's packages in a few seconds.
# Run it by hand (`deploy/base-images.sh [NAME…]`) or source it after lib.sh.

# A pull that has not ended by then is given up (seconds).
readonly PULL_LIMIT=120
PULLING=1

base_images() {
    [ $# -gt 0 ] || set -- busybox redis node registry
    local name
    for name in "$@"; do
        case $name in
            busybox) base_image viking/busybox:1 busybox:1.36 busybox_root ;;
            redis) base_image viking/redis:1 redis:7 redis_root ;;
            node) base_image viking/node:1 node:20-slim node_root ;;
            registry) base_image viking/registry:2 registry:2 registry_root ;;
            *) die "no base image is called $name (busybox, redis, node, registry)" ;;
        esac
    done
}

# base_image NAME PULL_REFERENCE MAKER: MAKER fills the folder it is given and names what it runs in IMAGE_SETTINGS.
base_image() {
    local name=$1 reference=$2 maker=$3 root
    ! docker image inspect "$name" >/dev/null 2>&1 || return 0
    if pull "$reference"; then
        docker tag "$reference" "$name"
        return 0
    fi
    say "making $name from Debian's packages"
    root=$(mktemp -d -t viking-image.XXXXXX)
    IMAGE_SETTINGS=()
    "$maker" "$root"
    import_image "$name" "$root"
    rm -rf "$root"
}

# One failure is enough to know that no registry can be reached from here.
pull() {
    [ -n "$PULLING" ] || return 1
    timeout "$PULL_LIMIT" docker pull --quiet "$1" >/dev/null 2>&1 </dev/null || { PULLING=; return 1; }
}

# Names in order, times and owners fixed: the same packages give the same layer.
import_image() {
    local name=$1 root=$2 setting
    local -a changes=()
    for setting in "${IMAGE_SETTINGS[@]}"; do changes+=(--change "$setting"); done
    tar --create --directory "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner . |
        docker import "${changes[@]}" - "$name" >/dev/null
}

# What every image has: the folders and accounts that programs take for granted.
skeleton() {
    local root=$1
    mkdir -p "$root"/{bin,etc,root,tmp,usr/bin,var/run}
    chmod 755 "$root"
    chmod 1777 "$root/tmp"
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
    printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
}

# Copies a program of this machine to /usr/bin, and each library at the place where the loader looks for it.
program() {
    local root=$1 path library
    path=$(find_command "$2") || die "$2 is missing"
    install -D -m 755 "$(realpath "$path")" "$root/usr/bin/$2"
    for library in $(ldd "$(realpath "$path")" 2>/dev/null | grep -o '/[^ ]*'); do
        install -D -m 755 "$(realpath "$library")" "$root$library"
    done
}

shell_tools() {
    local root=$1 applet
    need busybox busybox-static
    install_missing
    ! ldd "$(find_command busybox)" >/dev/null 2>&1 || MISSING+=(busybox-static) # this machine's needs libraries
    install_missing
    install -m 755 "$(realpath "$(find_command busybox)")" "$root/bin/busybox"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    ln -s /bin/busybox "$root/usr/bin/env"
}

busybox_root() {
    skeleton "$1"
    shell_tools "$1"
    IMAGE_SETTINGS=('ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' 'CMD ["sh"]')
}

redis_root() {
    need redis-server redis-server
    install_missing
    skeleton "$1"
    shell_tools "$1"
    program "$1" redis-server
    program "$1" redis-cli
    mkdir -p "$1/data"
    IMAGE_SETTINGS=(
        'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin'
        'WORKDIR /data'
        'EXPOSE 6379'
        'CMD ["redis-server", "--bind", "0.0.0.0", "--dir", "/data", "--appendonly", "yes", "--protected-mode", "no"]'
    )
}

node_root() {
    need node nodejs
    install_missing
    skeleton "$1"
    shell_tools "$1"
    program "$1" node
    # Debian's node reads some of its own modules from here at run time.
    local module
    for module in acorn acorn-walk cjs-module-lexer undici; do
        [ ! -d "/usr/share/nodejs/$module" ] || install_tree "/usr/share/nodejs/$module" "$1"
    done
    IMAGE_SETTINGS=('ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin' 'CMD ["node"]')
}

install_tree() {
    mkdir -p "$2$(dirname "$1")"
    cp -rL "$1" "$2$1"
}

registry_root() {
    need docker-registry docker-registry
    install_missing
    skeleton "$1"
    shell_tools "$1"
    program "$1" docker-registry
    mkdir -p "$1/etc/docker/registry" "$1/var/lib/registry"
    cat >"$1/etc/docker/registry/config.yml" <<'CONFIG'
version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
  delete:
    enabled: true
http:
  addr: :5000
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
CONFIG
    IMAGE_SETTINGS=(
        'ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin'
        'EXPOSE 5000'
        'ENTRYPOINT ["docker-registry"]'
        'CMD ["serve", "/etc/docker/registry/config.yml"]'
    )
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    # shellcheck source=lib.sh
    source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
    docker_answers || die "no Docker answers at $(docker_address)"
    base_images "$@"
    docker image ls --filter reference='viking/*'
fi
