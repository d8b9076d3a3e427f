#!/usr/bin/env bash
# What the scripts beside this one share; they source it in the root of the clone.
# Each takes --dry-run first, which prints what would be run and runs nothing.

dry_run=0

begin() { # ARGUMENTS: notes --dry-run; the others are in `arguments`
    if [[ ${1:-} == --dry-run ]]; then
        dry_run=1
        shift
    fi
    arguments=("$@")
}

stop() { # MESSAGE
    echo "${0##*/}: $1" >&2
    exit 2
}

# Sets `processes`, of all nodes, as the arguments choose them, and `per_node`.
count_processes() {
    local argument chosen="" file
    processes=1
    for argument in "${arguments[@]}"; do
        case $argument in
        hardware=*)
            file=conf/hardware/${argument#*=}.yaml
            [[ -f $file ]] || stop "$argument: there is no $file"
            processes=$(sed -n 's/^processes: *\([0-9]*\).*/\1/p' "$file")
            processes=${processes:-1}
            ;;
        hardware.processes=*) chosen=${argument#*=} ;;
        esac
    done
    processes=${chosen:-$processes}
    per_node=$((processes / ${NODES:=1}))
    ((per_node * NODES == processes)) ||
        stop "NODES=$NODES: does not divide the $processes processes of the hardware; set hardware.processes=…"
    : "${NODE_RANK:=0}" "${MASTER_ADDR:=127.0.0.1}" "${MASTER_PORT:=29500}"
    if ((NODES > 1)) && [[ $MASTER_ADDR == 127.* || $MASTER_ADDR == localhost ]] && [[ -z ${LOOPBACK:-} ]]; then
        stop "MASTER_ADDR=$MASTER_ADDR: name the first node, which all nodes can reach (NODES=$NODES)"
    fi
}

run() { # [NAME=VALUE…] COMMAND: in place of this script
    local variables=()
    while [[ $1 =~ ^[A-Z_]+= ]]; do
        variables+=("$1")
        shift
    done
    if ((dry_run)); then
        ((${#variables[@]} == 0)) || printf '%q\n' "${variables[@]}"
        printf '%q ' "$@"
        echo
        exit 0
    fi
    exec env "${variables[@]}" "$@"
}

# Run a command as a batch job of SLURM: the script's signals go to it, and once it has saved because
# time is nearly over the job is queued again.
run_job() { # COMMAND
    if ((dry_run)); then
        run "$@"
    fi
    signals=0 ending=
    # shellcheck disable=SC2329 # the traps call it
    pass_on() { # SIGNAL
        signals=$((signals + 1)) ending=$1
        kill -s "$1" "$child" 2>/dev/null || true
    }
    "$@" &
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
}
