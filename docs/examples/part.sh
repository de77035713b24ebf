#!/bin/bash
#SBATCH --job-name=datagen --cpus-per-task=4 --mem=4G --time=1:00:00 --requeue
# Build one part of a dataset in each task of a SLURM array or of an indexed Kubernetes job.
#
#   sbatch --array=0-15 docs/examples/part.sh /shared/mnist --recipe mnist --source-dir /shared/in
#   sbatch --dependency=afterok:JOB --wrap 'datagen finish /shared/mnist'
#
# Tasks may run in any order, at once, and again: a part that is there is checked and kept.
set -euo pipefail
out="$1"
shift
part="${SLURM_ARRAY_TASK_ID:-${JOB_COMPLETION_INDEX:?this is no task of an array}}"
parts="${SLURM_ARRAY_TASK_COUNT:-${PARTS:?set PARTS to the number of tasks}}"
part=$((part - ${SLURM_ARRAY_TASK_MIN:-0}))
total="$(datagen shards "$@" --json | grep -c '"number"')"
first=$((total * part / parts)) stop=$((total * (part + 1) / parts))
if [ "$first" -lt "$stop" ]; then # more tasks than shards leave some without work
    exec datagen build "$@" --out "$out" --shards "$first:$stop" \
        --workers "${SLURM_CPUS_PER_TASK:-${WORKERS:-1}}"
fi
