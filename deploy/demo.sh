#!/usr/bin/env bash
# viking in one command: builds it, puts examples/ragnar into a git repository, brings it up, fetches the page
# through the router, shows where it leads and the status, and takes everything down again.
#
#   deploy/demo.sh          a second run takes seconds: binary, base images, store and registry data stay in place
#   deploy/demo.sh --fresh  forgets those of earlier demos first (their volumes too)
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=lib.sh
source "$ROOT/deploy/lib.sh"
# shellcheck source=base-images.sh
source "$ROOT/deploy/base-images.sh"

TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
DEMO=$TARGET/demo
DATA=$DEMO/data
REPOSITORY=$DEMO/ragnar
HOST_LOG=$DEMO/host.log
HOST_PID=

# How long `viking host` may take to answer, and a released stack to be healthy (seconds).
readonly ANSWER_LIMIT=30
readonly HEALTHY_LIMIT=120
readonly HOST_STOP_LIMIT=20

main() {
    case ${1:-} in
        '' | --fresh) ;;
        *) die "usage: deploy/demo.sh [--fresh]" ;;
    esac
    need_basics
    need jq jq
    install_missing
    build
    start_docker
    base_images node redis registry
    [ "${1:-}" != --fresh ] || forget
    make_repository
    start_host
    say "viking up $REPOSITORY --once"
    "$VIKING" up "$REPOSITORY" --once "${FLAGS[@]}" || fail "viking up did not end live"
    wait_for "$HEALTHY_LIMIT" healthy || fail "ragnar is not healthy after $HEALTHY_LIMIT s"
    show
}

build() {
    say "building viking"
    cargo build --release --locked --manifest-path "$ROOT/Cargo.toml"
    VIKING=$TARGET/release/viking
}

# One commit whose author and date never change: the same example is the same commit, whoever runs the demo.
make_repository() {
    rm -rf "$REPOSITORY"
    mkdir -p "$REPOSITORY"
    cp -R "$ROOT/examples/ragnar/." "$REPOSITORY"
    (
        cd "$REPOSITORY"
        # Nobody's own git settings, hooks or keys take part.
        export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
        export GIT_AUTHOR_NAME=Ragnar GIT_AUTHOR_EMAIL=ragnar@example.com GIT_AUTHOR_DATE='2026-01-01T00:00:00Z'
        export GIT_COMMITTER_NAME=Ragnar GIT_COMMITTER_EMAIL=ragnar@example.com GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
        unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
        git init --quiet --initial-branch main
        git add --all
        git commit --quiet --message 'Ragnar sets sail'
    )
}

start_host() {
    local api registry front
    api=127.0.0.1:$(free_port 18791)
    registry=$(free_port 15000)
    front=127.0.0.1:$(free_port 18080)
    # Whatever this machine is configured as, the demo is a cluster of its own.
    FLAGS=(--config /dev/null --data-dir "$DATA" --docker "$(docker_address)" --api "$api"
        --registry-port "$registry" --registry-image viking/registry:2 --http "$front" --https off)
    mkdir -p "$DATA"
    at_exit take_down
    "$VIKING" host "${FLAGS[@]}" >"$HOST_LOG" 2>&1 </dev/null &
    HOST_PID=$!
    API=$api
    PAGE=http://ragnar.localhost:${front##*:}/
    wait_for "$ANSWER_LIMIT" host_answers_or_died
    host_answers || fail "viking host does not answer at $api"
}

host_answers() { curl --silent --fail --max-time 2 --output /dev/null "http://$API/v1/ping"; }
host_answers_or_died() { host_answers || gone "$HOST_PID"; }

status_json() { "$VIKING" status -o json --api "$API"; }

# A second run finds the release live but its containers gone: they have to be back before anybody looks at them.
healthy() {
    status_json | jq --exit-status '
        [.stacks[] | select(.stack == "ragnar")] | length == 1 and all(.health == "healthy")' >/dev/null &&
        page >/dev/null 2>&1
}

# The name is this machine's own, whatever its resolver says.
page() {
    local front=${PAGE#http://ragnar.localhost:}
    curl --silent --show-error --fail --max-time 10 --resolve "ragnar.localhost:${front%/}:127.0.0.1" "$PAGE"
}

show() {
    say "curl $PAGE"
    page
    say "viking route $PAGE"
    "$VIKING" route "$PAGE" --api "$API"
    say "viking status"
    "$VIKING" status --api "$API"
}

fail() {
    printf 'error: %s\n' "$*" >&2
    if host_answers; then "$VIKING" status --api "$API" >&2 || true; fi
    say "the last lines of $HOST_LOG"
    tail -n 30 "$HOST_LOG" >&2
    exit 1
}

# `viking host` leaves its containers running when it goes, as it promises; the demo removes them by their label.
take_down() {
    say "taking it down"
    [ -z "$HOST_PID" ] || end_process "$HOST_PID" "$HOST_STOP_LIMIT"
    remove_cluster "$(cluster_id)"
}

cluster_id() { cat "$DATA/cluster" 2>/dev/null || true; }

forget() {
    remove_cluster "$(cluster_id)" volumes
    rm -rf "$DATA"
}

main "$@"
