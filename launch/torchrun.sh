#!/usr/bin/env bash
# A run under torchrun:  launch/torchrun.sh [--dry-run] hardware=a100x8_zero3 …
# For several nodes once on each, with the same NODES, MASTER_ADDR, and MASTER_PORT, and its own NODE_RANK.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"
count_processes
run .venv/bin/torchrun --nnodes="$NODES" --nproc_per_node="$per_node" --node_rank="$NODE_RANK" \
    --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" \
    --signals_to_handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown_timeout=660 \
    -m tokencredit.train "${arguments[@]}"
