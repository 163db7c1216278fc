#!/usr/bin/env bash
# Makes this server a member: Docker, the viking binary, its systemd unit, its configuration. It needs nothing but
# itself and a binary, so that it can be fetched alone. A second run changes nothing and says so.
#
#   bootstrap.sh --binary FILE | --from URL [--sha256 SUM]   where viking comes from; neither: what is installed stays
#                [--join URL[,URL…]]                         the etcd that makes several hosts one cluster
#                [--etcd-ca FILE] [--etcd-cert FILE] [--etcd-key FILE]
#                [--etcd-user USER] [--etcd-password-file FILE] [--insecure-etcd]
#                [--name NAME] [--address IP] [--tag TAG]…
#                [--replace-config]                          a different configuration is replaced (and kept as .old)
#                [--root DIR]                                install into a tree; nothing is started
#                [--no-start]                                install, do not start
#   bootstrap.sh --uninstall [--root DIR]                    data, configuration and containers stay
#
# What it installs: /usr/local/bin/viking, /etc/systemd/system/viking.service, /etc/viking/config.yml (if there is
# none). Text from elsewhere is never run by a shell: what is fetched is the binary, and only that is started.
set -euo pipefail

readonly BINARY=/usr/local/bin/viking
readonly UNIT=/etc/systemd/system/viking.service
readonly WANTED=/etc/systemd/system/multi-user.target.wants/viking.service
readonly CONFIG=/etc/viking/config.yml
readonly DATA=/var/lib/viking

# How long a download, and the API of a host that was started, may take (seconds). The first start may have to
# wait for Docker; the registry's image comes later.
readonly FETCH_LIMIT=600
readonly ANSWER_LIMIT=60

TREE=
SOURCE=
FROM=
SHA256=
NO_START=
UNINSTALL=
REPLACE=
JOIN=
NAME=
ADDRESS=
TAGS=()
ETCD=()
INSECURE=
SCRATCH=
VERSION=
CHANGED=

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
usage() { printf 'error: %s\nhint: %s --help\n' "$*" "$0" >&2; exit 64; }

# Everything is read before anything is run: a script that is cut off half-way does nothing.
main() {
    arguments "$@"
    # The settings of this shell are not the server's.
    unset "${!VIKING_@}"
    check_machine
    SCRATCH=$(mktemp -d)
    trap 'rm -rf "$SCRATCH"' EXIT
    if [ -n "$UNINSTALL" ]; then
        uninstall
        return
    fi
    find_binary
    need_docker
    install_binary
    install_unit
    install_config
    enable_unit
    start
}

# --- arguments ------------------------------------------------------------------------------------------------

arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
            --no-start) NO_START=1 ;;
            --uninstall) UNINSTALL=1 ;;
            --replace-config) REPLACE=1 ;;
            --insecure-etcd) INSECURE=1 ;;
            --binary | --from | --sha256 | --join | --name | --address | --tag | --root | --etcd-*)
                [ $# -ge 2 ] || usage "$1 needs a value"
                value "$1" "$2"
                shift
                ;;
            *) usage "unknown argument $1" ;;
        esac
        shift
    done
    [ -z "$SOURCE" ] || [ -z "$FROM" ] || usage "--binary and --from are two places for one thing"
    [ -z "$SHA256" ] || [ -n "$FROM" ] || usage "--sha256 belongs to --from"
    [ -n "$JOIN" ] || [ ${#ETCD[@]}${INSECURE:+1} = 0 ] || usage "--etcd-* and --insecure-etcd belong to --join"
}

# What goes into the configuration is kept to characters that need no escaping in a quoted YAML text.
value() {
    local flag=$1 text=$2
    case $text in
        '' | *[[:cntrl:]]* | *"'"*) usage "$flag: not a value: $text" ;;
    esac
    case $flag in
        --binary) SOURCE=$text ;;
        --from) FROM=$text ;;
        --sha256)
            SHA256=${text,,}
            [[ $SHA256 =~ ^[0-9a-f]{64}$ ]] || usage "--sha256 takes 64 hexadecimal digits"
            ;;
        --join) JOIN=$text ;;
        --name) NAME=$text ;;
        --address) ADDRESS=$text ;;
        --tag) TAGS+=("$text") ;;
        --root)
            TREE=$(realpath -e -- "$text" 2>/dev/null) || die "--root $text: there is no such folder"
            [ -d "$TREE" ] || die "--root $text: it is not a folder"
            [ "$TREE" != / ] || TREE=
            ;;
        --etcd-ca | --etcd-cert | --etcd-key | --etcd-password-file)
            case $text in /*) ;; *) usage "$flag takes an absolute path: viking reads it at every start" ;; esac
            flag=${flag#--etcd-}
            ETCD+=("${flag//-/_}: '$text'")
            ;;
        --etcd-user) ETCD+=("user: '$text'") ;;
        *) usage "unknown argument $flag" ;;
    esac
}

check_machine() {
    [ "$(uname -s)" = Linux ] || die "viking runs on Linux, this is $(uname -s)"
    [ -n "$TREE" ] || [ "$(id -u)" = 0 ] || die "it installs into /usr/local and /etc: run it as root"
    [ -n "$TREE" ] || [ -n "$NO_START" ] || [ -d /run/systemd/system ] ||
        die "systemd does not run here: use --no-start and start \`viking host\` yourself, or deploy/Dockerfile"
}

# --- the binary -----------------------------------------------------------------------------------------------

find_binary() {
    [ -z "$FROM" ] || fetch
    if [ -z "$SOURCE" ]; then
        [ -x "$TREE$BINARY" ] || die "no viking is installed: give --binary FILE or --from URL"
        SOURCE=$TREE$BINARY
    fi
    [ -f "$SOURCE" ] || die "--binary $SOURCE: there is no such file"
    # A copy that nobody replaces while it is looked at. It must run here: it knows its unit.
    cp -- "$SOURCE" "$SCRATCH/viking"
    chmod 755 "$SCRATCH/viking"
    VERSION=$("$SCRATCH/viking" --version 2>"$SCRATCH/why") || VERSION=
    [[ $VERSION == 'viking '* ]] ||
        die "$SOURCE is no viking for this machine ($(uname -m)): $(head -n 1 "$SCRATCH/why")"
}

fetch() {
    case $FROM in
        https://* | file:///*) ;;
        http://*) [ -n "$SHA256" ] || die "--from $FROM: http lets others change it on the way; give --sha256, or https" ;;
        *) usage "--from takes a URL: https://…" ;;
    esac
    need_program curl curl ca-certificates
    say "fetching $FROM"
    curl --fail --silent --show-error --location --proto '=https,http,file' --proto-redir '=https' \
        --max-time "$FETCH_LIMIT" --output "$SCRATCH/fetched" -- "$FROM" || die "$FROM could not be fetched"
    local sum
    sum=$(sha256sum "$SCRATCH/fetched")
    sum=${sum%% *}
    [ -z "$SHA256" ] || [ "$sum" = "$SHA256" ] ||
        die "$FROM is not what was expected: its sha256 is $sum, not $SHA256; nothing was installed"
    [ -n "$SHA256" ] || say "its sha256 is $sum (not checked: no --sha256)"
    SOURCE=$SCRATCH/fetched
}

install_binary() { put "$SCRATCH/viking" "$BINARY" 755 "$VERSION"; }

# --- programs -------------------------------------------------------------------------------------------------

need_program() {
    local program=$1
    shift
    ! command -v "$program" >/dev/null || return 0
    [ -z "$TREE" ] || die "$program is missing"
    install_packages "$@"
}

# install_packages PACKAGE… [-- PACKAGE…]: those behind -- are only for distributions that have them.
install_packages() {
    command -v apt-get >/dev/null || die "missing: $*; install them (no apt-get on this machine)"
    local package optional=
    local -a packages=()
    apt_get update || say "the package lists could not be fetched anew; trying with those that are here"
    for package in "$@"; do
        if [ "$package" = -- ]; then
            optional=1
        elif [ -z "$optional" ] || apt-cache show "$package" >/dev/null 2>&1; then
            packages+=("$package")
        fi
    done
    say "installing ${packages[*]}"
    apt_get install -y --no-install-recommends "${packages[@]}" || {
        tail -n 20 "$SCRATCH/apt" >&2
        die "apt-get could not install ${packages[*]}"
    }
    CHANGED=1
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >"$SCRATCH/apt" 2>&1 </dev/null; }

# A Docker that answers is taken as it is, one that is stopped is started, else the distribution's is installed.
# Besides it: what git over https and ssh needs.
need_docker() {
    if [ -n "$TREE" ]; then
        say "$TREE needs a Docker and an ssh client of its own: nothing is installed into a tree but viking"
        return
    fi
    local -a missing=()
    command -v ssh >/dev/null || missing+=(openssh-client)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    # Debian has the init of containers in tini, and newer ones the client apart.
    docker_answers || command -v dockerd >/dev/null || missing+=(docker.io tini -- docker-cli)
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
    docker_answers || start_docker || [ -n "$NO_START" ] ||
        die "no Docker answers: systemctl status docker, journalctl -u docker"
}

docker_answers() {
    command -v docker >/dev/null && timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

start_docker() {
    [ -d /run/systemd/system ] || return 1
    systemctl --quiet enable --now docker.service && docker_answers
}

# --- files ----------------------------------------------------------------------------------------------------

# put FILE PLACE MODE WORDS: whole or not at all, and only what is new.
put() {
    local file=$1 place=$TREE$2 mode=$3 words=$4
    if cmp -s -- "$file" "$place"; then
        say "$place: unchanged ($words)"
        return
    fi
    mkdir -p -- "${place%/*}"
    cp -- "$file" "$place.new"
    chmod "$mode" "$place.new"
    sync -- "$place.new" 2>/dev/null || true
    mv -f -- "$place.new" "$place"
    say "$place: installed ($words)"
    CHANGED=1
}

install_unit() {
    "$SCRATCH/viking" config unit >"$SCRATCH/unit"
    put "$SCRATCH/unit" "$UNIT" 644 "viking host"
}

install_config() {
    local place=$TREE$CONFIG
    render >"$SCRATCH/config"
    if [ ! -e "$place" ]; then
        put "$SCRATCH/config" "$CONFIG" 644 "the settings of this host"
    elif cmp -s -- "$SCRATCH/config" "$place"; then
        say "$place: unchanged"
    elif [ -n "$REPLACE" ]; then
        cp -p -- "$place" "$place.old"
        put "$SCRATCH/config" "$CONFIG" 644 "what was there is $place.old"
    elif asked; then
        diff -u --label "$place" --label 'what was asked for' "$place" "$SCRATCH/config" >&2 || true
        die "$place says something else and was left alone; put the lines above into it, or give --replace-config" \
            "(the old one is kept as $place.old)"
    else
        say "$place: yours, left alone"
    fi
    check_config
}

asked() { [ -n "$JOIN$NAME$ADDRESS" ] || [ ${#TAGS[@]} -gt 0 ]; }

# The same answers give the same file.
# shellcheck disable=SC2016  # the backquotes are words for people
render() {
    printf '# Settings of this host; `viking config example` prints every key, `viking config check` what is in force.\n'
    [ -z "$NAME" ] || printf "name: '%s'\n" "$NAME"
    [ -z "$ADDRESS" ] || printf "address: '%s'\n" "$ADDRESS"
    if [ ${#TAGS[@]} -gt 0 ]; then
        printf 'tags:\n'
        printf "  - '%s'\n" "${TAGS[@]}"
    fi
    [ -n "$JOIN" ] || return 0
    printf 'etcd:\n  endpoints:\n'
    local -a urls
    IFS=, read -r -a urls <<<"$JOIN"
    printf "    - '%s'\n" "${urls[@]}"
    [ ${#ETCD[@]} = 0 ] || printf '  %s\n' "${ETCD[@]}"
    [ -z "$INSECURE" ] || printf '  insecure: true\n'
}

# Asks viking itself, as the unit would start it.
check_config() {
    local -a viking=("$BINARY")
    if [ -n "$TREE" ]; then
        viking=(chroot "$TREE" "$BINARY")
        if ! "${viking[@]}" --version >/dev/null 2>&1; then
            say "$TREE$CONFIG: not checked, viking does not run inside this tree"
            return
        fi
    fi
    "${viking[@]}" config check >/dev/null ||
        die "viking would not start with $TREE$CONFIG; correct it and run this again"
}

enable_unit() {
    if [ -L "$TREE$WANTED" ]; then
        return
    fi
    mkdir -p -- "$TREE${WANTED%/*}"
    ln -s "$UNIT" "$TREE$WANTED"
    say "viking starts with the machine"
    CHANGED=1
}

# --- running --------------------------------------------------------------------------------------------------

start() {
    if [ -n "$TREE$NO_START" ]; then
        [ -n "$CHANGED" ] || say "nothing to do: everything is in place"
        return
    fi
    systemctl daemon-reload
    if systemctl --quiet is-active viking.service && ! outdated; then
        [ -n "$CHANGED" ] || say "nothing to do: everything is in place and runs"
    else
        # Containers run on meanwhile.
        say "starting viking"
        systemctl reset-failed viking.service 2>/dev/null || true
        systemctl restart viking.service
    fi
    local answer end=$((SECONDS + ANSWER_LIMIT))
    until answer=$("$BINARY" hosts 2>"$SCRATCH/why"); do
        if ((SECONDS >= end)); then
            journalctl --no-pager --unit viking.service --lines 20 >&2 || true
            die "viking does not answer after $ANSWER_LIMIT s: $(head -n 1 "$SCRATCH/why")"
        fi
        sleep 0.5
    done
    printf '%s\n' "$answer"
}

# Whether what runs was started before what is installed: by this run, or by one that ended half-way.
outdated() {
    local since file
    since=$(date --date "$(systemctl show --property ActiveEnterTimestamp --value viking.service)" +%s) || return 0
    for file in "$BINARY" "$UNIT" "$CONFIG"; do
        (($(stat --format %Y -- "$file") <= since)) || return 0
    done
    return 1
}

uninstall() {
    if [ -z "$TREE" ] && [ -d /run/systemd/system ] && systemctl cat viking.service >/dev/null 2>&1; then
        say "stopping viking; containers run on"
        systemctl --quiet disable --now viking.service
    fi
    local place removed=
    for place in "$WANTED" "$UNIT" "$BINARY"; do
        if [ -e "$TREE$place" ] || [ -L "$TREE$place" ]; then
            rm -f -- "$TREE$place"
            say "$TREE$place: removed"
            removed=1
        fi
    done
    [ -n "$removed" ] || say "nothing to do: viking is not installed"
    [ -n "$TREE" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
    kept
}

# Data goes only when a person removes it.
kept() {
    local cluster=
    [ ! -s "$TREE$DATA/cluster" ] || cluster=$(<"$TREE$DATA/cluster")
    [ ! -d "$TREE$DATA" ] || say "kept: $TREE$DATA (store, mirrors, cluster id). To remove it: rm -r $TREE$DATA"
    [ ! -d "$TREE${CONFIG%/*}" ] ||
        say "kept: $TREE${CONFIG%/*} (settings). To remove it: rm -r $TREE${CONFIG%/*}"
    [ -n "$cluster" ] || return 0
    say "kept: containers, networks, images and volumes of cluster $cluster. To remove the containers:"
    say "  docker ps -aq --filter label=viking.cluster=$cluster | xargs -r docker rm -f"
    say "and, with all data in them, the volumes:"
    say "  docker volume ls -q --filter label=viking.cluster=$cluster | xargs -r docker volume rm"
}

main "$@"
