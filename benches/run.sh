#!/usr/bin/env bash
# Measures viking's figures, each against its peer in the same run, and prints medians, ratio and PASS or FAIL.
#
#   benches/run.sh                 all figures
#   benches/run.sh p1 p9           these
#   benches/run.sh p7 --n 10       fewer rounds than the figure asks for
#   benches/run.sh p5 p6 p10 p11 p13   the planner, those of several hosts, the router: only when they are named, as they
#                                  take minutes
#
# Needs root, as it starts a Docker engine of its own in a network of its own: nothing else runs on that engine,
# swarm mode can be switched on there (the peer of P7, P8 and P9), and at the end nothing of it is left. No other
# container, network or image of this machine is touched.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../deploy/lib.sh
source "$ROOT/deploy/lib.sh"
# shellcheck source=../deploy/base-images.sh
source "$ROOT/deploy/base-images.sh"

readonly DOCKER_ANSWER_LIMIT=60
ENGINE_PID=

main() {
    [ "$(id -u)" = 0 ] || die "the benches start a Docker engine of their own, which needs root"
    if [ -z "${VIKING_BENCH_FIGURES:-}" ]; then
        several_hosts "$@"
        [ "${#REST[@]}" != 0 ] || [ $# = 0 ] || exit 0
        prepare
        # The second time this script runs, in the new network.
        exec unshare --net -- env VIKING_BENCH_FIGURES="$FIGURES" VIKING_BENCH_VIKING="$VIKING" \
            "$0" ${REST[@]+"${REST[@]}"}
    fi
    measure "$@"
}

# Figures that need no engine of their own (P5, P13), an etcd, or the rig of tests/it/rig, whose tests measure them. REST is
# what is left to do here.
several_hosts() {
    REST=()
    local figure tests=()
    for figure in "$@"; do
        case $figure in
            p5)
                need_basics
                install_missing
                cargo bench --locked --quiet --bench planner --manifest-path "$ROOT/Cargo.toml"
                ;;
            p13)
                need_basics
                need nginx nginx-light
                need haproxy haproxy
                need wrk wrk
                install_missing
                cargo bench --locked --quiet --bench router --manifest-path "$ROOT/Cargo.toml"
                ;;
            p6) tests+=(cluster::throughput) ;;
            p10 | p11) tests+=(rig::figures) ;;
            *) REST+=("$figure") ;;
        esac
    done
    [ "${#tests[@]}" != 0 ] || return 0
    need_basics
    need etcd etcd-server
    need etcdctl etcd-client
    need ip iproute2
    need nsenter util-linux
    need umount mount
    install_missing
    start_docker
    DOCKER_HOST=$(docker_address)
    export DOCKER_HOST
    base_images
    say "building viking and the tests that measure"
    RUST_BACKTRACE=0 cargo test --release --locked --quiet --features failpoints --manifest-path "$ROOT/Cargo.toml" \
        --test it -- --ignored --nocapture --test-threads 1 "${tests[@]}"
}

# What needs the machine's own network: packages and crates.
prepare() {
    need_basics
    need ip iproute2
    need unshare util-linux
    need busybox busybox-static
    need docker-registry docker-registry
    install_missing
    say "building viking and the benches"
    cargo build --release --locked --quiet --manifest-path "$ROOT/Cargo.toml"
    VIKING=${CARGO_TARGET_DIR:-$ROOT/target}/release/viking
    FIGURES=$(cargo bench --no-run --locked --quiet --bench figures --message-format json \
        --manifest-path "$ROOT/Cargo.toml" |
        sed -n 's/.*"executable":"\([^"]*figures-[^"]*\)".*/\1/p' | tail -n 1)
    [ -x "$FIGURES" ] || die "cargo did not say where the benches are"
}

measure() {
    WORK=$(mktemp -d /var/tmp/viking-bench.XXXXXX)
    at_exit sweep
    ip link set lo up
    start_engine
    PULLING='' # Nothing can be reached from this network.
    base_images busybox registry
    export VIKING_BENCH_DIR=$WORK VIKING_BENCH_ROOT=$ROOT VIKING_BENCH_DOCKERD=$ENGINE_PID
    "$VIKING_BENCH_FIGURES" "$@"
}

start_engine() {
    export DOCKER_HOST=unix://$WORK/docker.sock
    unset DOCKER_CONTEXT
    local driver
    for driver in overlay2 vfs; do
        PATH="$PATH:/usr/sbin:/sbin" setsid dockerd --host "$DOCKER_HOST" --data-root "$WORK/docker" \
            --exec-root "$WORK/exec" --pidfile "$WORK/docker.pid" --storage-driver "$driver" \
            >"$WORK/dockerd.log" 2>&1 </dev/null &
        ENGINE_PID=$!
        wait_for "$DOCKER_ANSWER_LIMIT" answers_or_died
        ! docker_answers || return 0
        end_process "$ENGINE_PID" 5 || true
    done
    tail -n 20 "$WORK/dockerd.log" >&2
    die "Docker did not start"
}

answers_or_died() { docker_answers || gone "$ENGINE_PID"; }

sweep() {
    # Named once more, so that this can never be another engine.
    local engine="docker --host unix://$WORK/docker.sock"
    remove_all "$engine rm --force" "$engine ps --all --quiet"
    end_process "$ENGINE_PID" 30 || true
    # Logs of the hosts and the engine, for who wants to know why.
    [ -z "${KEEP_LOGS:-}" ] || cp "$WORK"/*.log "$WORK"/*/host.log "$KEEP_LOGS"/ 2>/dev/null || true
    local mounted
    for mounted in $(awk -v dir="$WORK/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r); do
        umount --lazy "$mounted" || true
    done
    rm -rf "$WORK"
}

main "$@"
