#!/usr/bin/env bash
# What viking is compared with in P1 and P2: the shell script a careful person would run on a server after a push.
# Tuned: fetches instead of cloning, resets only what changed, keeps `.git` out of the build context (see the
# `.dockerignore` that the bench writes), and removes the old container after the new one runs.
#
#   peer-push.sh CLONE IMAGE NAME     e.g. peer-push.sh /srv/app 127.0.0.1:5001/app app
set -euo pipefail
export DOCKER_BUILDKIT=0
clone=$1 image=$2 name=$3

cd "$clone"
git fetch --quiet origin main
git reset --quiet --hard FETCH_HEAD
tag=$(git rev-parse --short=12 HEAD)
docker build --quiet --tag "$image:$tag" . >/dev/null
docker push --quiet "$image:$tag" >/dev/null
old=$(docker ps --quiet --filter "label=viking.bench=$name")
docker run --detach --label "viking.bench=$name" --init "$image:$tag" sleep 1d >/dev/null
[ -z "$old" ] || docker rm --force $old >/dev/null
