#!/bin/bash
# Ingest a manifest on many machines of a Slurm cluster: each task of the array takes one shard.
#
#   spikedata fetch --manifest nhp7 --cache /shared/spikedata        # once, where there is a network
#   sbatch --array=1-16 examples/slurm_ingest.sh nhp7 --cache /shared/spikedata
#
# What follows the manifest goes to `spikedata ingest` as it is. All tasks write one store, which
# must be on a disk that they share. Send the whole array again after a failure: what is done is
# skipped.
#SBATCH --job-name=spikedata-ingest
#SBATCH --array=1-16
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=4G
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail

if [[ -z "${1:-}" || -z "${SLURM_ARRAY_TASK_ID:-}" || -z "${SLURM_ARRAY_TASK_COUNT:-}" ]]; then
    echo "Send it as an array: sbatch --array=1-16 $0 MANIFEST [OPTIONS OF spikedata ingest]" >&2
    exit 2
fi
manifest=$1
shift

# --array=1-16, --array=0-15 and --array=0-30:2 all have 16 tasks: count them from 1.
first=${SLURM_ARRAY_TASK_MIN:-1}
step=${SLURM_ARRAY_TASK_STEP:-1}
index=$(((SLURM_ARRAY_TASK_ID - first) / step + 1))

export OMP_NUM_THREADS=1 # the processes are the parallel part
exec spikedata ingest --manifest "$manifest" --shard "$index/$SLURM_ARRAY_TASK_COUNT" \
    --workers "${SLURM_CPUS_PER_TASK:-1}" "$@"
