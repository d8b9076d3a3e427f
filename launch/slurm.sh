#!/usr/bin/env bash
#SBATCH --job-name=tokencredit
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
# One run on one node. Submit from the clone:  sbatch launch/slurm.sh reward_scheme=abc seed=0
# In an array the number of the task is the seed. For a GPU: sbatch --gres=gpu:1 … hardware=gpu
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

.ci/setup
seed=()
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    seed=("seed=$SLURM_ARRAY_TASK_ID")
fi
exec .venv/bin/tokencredit train "$@" "${seed[@]}"
