#!/usr/bin/env bash
# A command in a container:  launch/container.sh [--dry-run] train hardware=gpu …
# CONTAINER=podman (docker) builds the image from launch/Containerfile if it is missing; TORCH and BASE as there.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"

program=${CONTAINER:-podman}
image=tokencredit:$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
build=("$program" build --file launch/Containerfile --tag "$image")
for name in TORCH BASE; do
    [[ -z ${!name:-} ]] || build+=(--build-arg "$name=${!name}")
done
devices=()
if [[ " ${arguments[*]} " == *" hardware="* && " ${arguments[*]} " != *" hardware=cpu"* ]]; then
    if [[ $program == docker ]]; then devices=(--gpus all); else devices=(--device nvidia.com/gpu=all); fi
fi
commit=$(git rev-parse HEAD 2>/dev/null || true)
start=("$program" run --rm --init --ipc=host --network=host "${devices[@]}"
    --volume "$PWD:/work" --workdir /work --env "TOKENCREDIT_COMMIT=$commit" "$image" "${arguments[@]}")
if ((dry_run)); then
    printf '%q ' "${build[@]}" .
    echo
elif ! "$program" image inspect "$image" >/dev/null 2>&1; then
    "${build[@]}" .
fi
run "${start[@]}"
