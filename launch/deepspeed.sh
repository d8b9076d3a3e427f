#!/usr/bin/env bash
# A run under DeepSpeed's launcher:  launch/deepspeed.sh [--dry-run] hardware=a100x8_zero3 …
# For several nodes once, on the first of them: NODES, MASTER_ADDR, and HOSTFILE, whose nodes ssh reaches without a password.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
count_processes
accelerator=() several=()
if [[ " ${arguments[*]} " == *" hardware=cpu"* ]]; then
    accelerator=(DS_ACCELERATOR=cpu) # else it finds no device
fi
if ((NODES > 1)); then
    several=(--hostfile="${HOSTFILE:-launch/hostfile.example}" --num_nodes="$NODES" --master_addr="$MASTER_ADDR")
fi
run "${accelerator[@]}" .venv/bin/deepspeed "${several[@]}" --num_gpus="$per_node" --master_port="$MASTER_PORT" \
    --module tokencredit.train "${arguments[@]}"
