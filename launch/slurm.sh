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
# In an array the number of the task is the seed. For a GPU: sbatch --gres=gpu:1 … hardware=gpu
# Five minutes before the time is over the run saves and ends, and the job is queued again.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"

.ci/setup
seed=()
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    seed=("seed=$SLURM_ARRAY_TASK_ID")
fi

signals=0 ending=
# shellcheck disable=SC2329 # the traps call it
pass_on() { # SIGNAL
    signals=$((signals + 1)) ending=$1
    kill -s "$1" "$child" 2>/dev/null || true
}
.venv/bin/tokencredit train "$@" "${seed[@]}" &
child=$!
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM
while true; do # a signal ends the waiting, not the run
    before=$signals code=0
    wait "$child" || code=$?
    if ((signals == before)); then break; fi
done

# 75: saved on request; 138: it had not begun with anything. After scancel (TERM) the job is over.
if [[ $ending == USR1 ]] && ((code == 75 || code == 138)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
