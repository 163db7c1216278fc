# shellcheck shell=bash
# What the scripts of this repository share: install what is missing, find or start Docker, clean up at exit.
# Sourced by deploy/*.sh and tests/run.sh after `set -euo pipefail`. Never touches a container, a network or a
# Docker daemon that the script itself did not start.

# Debian packages are fetched, and daemons waited for, within these limits (seconds).
readonly DOCKER_START_LIMIT=60
readonly DOCKER_STOP_LIMIT=30

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# --- clean-up -------------------------------------------------------------------------------------------------

CLEANUPS=()

# Runs COMMAND at exit, the last one added first. The script's own exit code is kept.
at_exit() { CLEANUPS+=("$1"); }

run_cleanups() {
    local code=$? i
    trap - EXIT
    set +e
    for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do
        ${CLEANUPS[i]}
    done
    exit "$code"
}
trap run_cleanups EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits until COMMAND… succeeds, at most SECONDS. What is waited for is the event, the pause only paces the asking.
wait_for() {
    local limit=$1 end
    shift
    end=$((SECONDS + limit))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# --- packages -------------------------------------------------------------------------------------------------

MISSING=()

# Notes PACKAGE… as missing when COMMAND is not there. Looks in the sbin folders too: daemons live there.
need() {
    local command=$1
    shift
    find_command "$command" >/dev/null || MISSING+=("$@")
}

find_command() {
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Installs what `need` noted, and asks the package lists only then. Services that come with a package are not
# started: this repository wants the programs, not a redis or an sshd listening on somebody's machine.
install_missing() {
    [ ${#MISSING[@]} -gt 0 ] || return 0
    find_command apt-get >/dev/null || die "missing: ${MISSING[*]}; install them (no apt-get on this machine)"
    say "installing ${MISSING[*]}"
    local policy=/usr/sbin/policy-rc.d made_policy=
    if [ ! -e $policy ]; then
        made_policy=1
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod +x $policy
    fi
    local log ok=1
    log=$(mktemp)
    as_root apt-get update -qq </dev/null >"$log" 2>&1 || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${MISSING[@]}" \
        </dev/null >>"$log" 2>&1 || ok=
    [ -z "$made_policy" ] || as_root rm -f $policy
    if [ -z "$ok" ]; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get could not install ${MISSING[*]}"
    fi
    rm -f "$log"
    MISSING=()
}

# What building viking and running Docker needs. Test-only programs are asked for by tests/run.sh.
need_basics() {
    find_command cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH="$HOME/.cargo/bin:$PATH"
    find_command cargo >/dev/null || die "cargo is missing: install Rust 1.90 or newer"
    need cc gcc libc6-dev
    need make make
    need pkg-config pkg-config
    need protoc protobuf-compiler libprotobuf-dev
    # Debian's protoc comes without the files that others import.
    [ "$(find_command protoc)" != /usr/bin/protoc ] || [ -e /usr/include/google/protobuf/descriptor.proto ] ||
        MISSING+=(libprotobuf-dev)
    need git git
    need curl curl ca-certificates
    need docker docker.io
    need dockerd docker.io
    need docker-init tini
    need iptables iptables
}

# --- Docker ---------------------------------------------------------------------------------------------------

DOCKERD_PID=
# Root's own folder: a name in /tmp that others can guess could be a link of theirs.
readonly DOCKERD_LOG=/var/run/viking-dockerd.log
readonly DOCKERD_SHIMS=/var/run/viking-iptables

docker_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# The address viking is to be given: of the Docker that `docker` talks to.
docker_address() {
    local address=${DOCKER_HOST:-}
    [ -n "$address" ] || address=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null) || true
    printf '%s' "${address:-unix:///var/run/docker.sock}"
}

# Uses the Docker that answers; else starts one of our own, which `stop_docker` ends at exit.
start_docker() {
    docker_answers && return 0
    [ "$(docker_address)" = unix:///var/run/docker.sock ] || die "no Docker answers at $(docker_address)"
    [ "$(id -u)" = 0 ] || die "no Docker answers and starting one needs root"
    at_exit stop_docker
    local -a flags=()
    local shims=''
    for _ in 1 2 3; do
        launch_dockerd "$shims" ${flags[@]+"${flags[@]}"} && return 0
        # The daemon says in its log what this kernel lacks; answer that and try again.
        if [ -z "$shims" ] && grep -qiE 'iptables|nf_tables' "$DOCKERD_LOG" && find_command iptables-legacy >/dev/null; then
            say "Docker did not start with this iptables; trying iptables-legacy"
            shims=$DOCKERD_SHIMS
            legacy_iptables
        elif grep -qiE 'graphdriver|overlay' "$DOCKERD_LOG" && [ ${#flags[@]} = 0 ]; then
            say "Docker did not start with overlay2; trying vfs"
            flags=(--storage-driver vfs)
        else
            break
        fi
    done
    tail -n 20 "$DOCKERD_LOG" >&2
    die "Docker did not start; the log is $DOCKERD_LOG"
}

# Starts dockerd away from this shell's terminal, so that ^C reaches the script and not the daemon under it.
launch_dockerd() {
    local shims=$1
    shift
    forget_stale_pid /var/run/docker.pid dockerd
    forget_stale_pid /var/run/docker/containerd/containerd.pid containerd
    PATH="${shims:+$shims:}$PATH:/usr/sbin:/sbin" setsid dockerd --live-restore "$@" \
        >"$DOCKERD_LOG" 2>&1 </dev/null &
    DOCKERD_PID=$!
    say "starting Docker (log: $DOCKERD_LOG)"
    local end=$((SECONDS + DOCKER_START_LIMIT))
    until docker_answers; do
        if ! kill -0 "$DOCKERD_PID" 2>/dev/null || ((SECONDS >= end)); then
            stop_docker
            return 1
        fi
        sleep 0.1
    done
}

# A pid file outlives a machine or a `kill -9`; its number may belong to somebody else by now.
forget_stale_pid() {
    local file=$1 name=$2 pid
    [ -f "$file" ] || return 0
    pid=$(cat "$file")
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ] || rm -f "$file"
}

# A folder in which `iptables` means the legacy one; nothing on the machine is switched over.
legacy_iptables() {
    local name
    mkdir -p "$DOCKERD_SHIMS"
    for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
        ln -sf "$(find_command "${name/tables/tables-legacy}")" "$DOCKERD_SHIMS/$name"
    done
}

stop_docker() {
    [ -n "$DOCKERD_PID" ] || return 0
    end_process "$DOCKERD_PID" "$DOCKER_STOP_LIMIT"
    DOCKERD_PID=
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# Ends a process that this script started: asked first, then not.
end_process() {
    local pid=$1 limit=$2
    kill "$pid" 2>/dev/null || return 0
    wait_for "$limit" gone "$pid" || kill -9 "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
}

# The first port from PORT on that nobody listens on here.
free_port() {
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 1))
    done
    printf '%s' "$port"
}

# Removes what one viking cluster (by its id) made in Docker. Volumes hold data: they go only when asked for.
remove_cluster() {
    local id=$1 volumes=${2:-}
    [ -n "$id" ] || return 0
    remove_all "docker rm --force" "docker ps --all --quiet --filter label=viking.cluster=$id"
    remove_all "docker network rm" "docker network ls --quiet --filter label=viking.cluster=$id"
    [ "$volumes" != volumes ] || remove_all "docker volume rm" "docker volume ls --quiet --filter label=viking.cluster=$id"
}

# Both arguments are commands of this file, never text from outside.
remove_all() {
    local remove=$1 list=$2 found
    found=$($list) || return 0
    # shellcheck disable=SC2086
    [ -z "$found" ] || $remove $found >/dev/null
}
