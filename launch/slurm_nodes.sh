#!/usr/bin/env bash
#SBATCH --job-name=tokencredit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@900
# One run on several nodes, a task of srun for each process; all tasks of a node see all of its GPUs.
# Submit from the clone:  sbatch launch/slurm_nodes.sh hardware=multinode_zero3
# Another shape:  sbatch --nodes=4 launch/slurm_nodes.sh hardware=multinode_zero3 hardware.processes=32
# A quarter of an hour before the time is over the run saves and ends, and the job is queued again.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
# shellcheck source=launch/common.sh
source launch/common.sh
begin "$@"

((dry_run)) || .ci/setup
# When one task ends the others end by themselves; srun would kill them before they have said their exit code.
run_job srun --kill-on-bad-exit=0 --wait=120 .venv/bin/tokencredit train "${arguments[@]}"
