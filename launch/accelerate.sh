#!/usr/bin/env bash
# A run under accelerate launch:  launch/accelerate.sh [--dry-run] hardware=a100x8_zero3 …
# For several nodes once on each, with the same NODES, MASTER_ADDR, and MASTER_PORT, and its own NODE_RANK.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
count_processes
several=()
if ((NODES > 1)); then
    several=(--same_network --main_process_ip="$MASTER_ADDR" --deepspeed_multinode_launcher=standard)
fi
# With --cpu alone it would start one process; what is computed where says hardware=… anyway.
run .venv/bin/accelerate launch --use_deepspeed --mixed_precision=no --dynamo_backend=no \
    --num_processes="$processes" --num_machines="$NODES" --machine_rank="$NODE_RANK" \
    --main_process_port="$MASTER_PORT" "${several[@]}" --module tokencredit.train "${arguments[@]}"
