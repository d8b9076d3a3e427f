#!/usr/bin/env bash
#SBATCH --job-name=tokencredit
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
# One run on one node. Submit from the clone:  sbatch launch/slurm.sh reward_scheme=abc seed=0
# In an array the number of the task is the seed. For GPUs: sbatch --gres=gpu:8 … hardware=a100x8_zero2
# Five minutes before the time is over the run saves and ends, and the job is queued again.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"

seed=()
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    seed=("seed=$SLURM_ARRAY_TASK_ID")
fi
((dry_run)) || .ci/setup
run_job .venv/bin/tokencredit train "${arguments[@]}" "${seed[@]}"
