#!/bin/sh
# bsub with $1 GPUs. It answers with a sentence; Snakemake wants the job's number alone.
mkdir -p results/lsf_logs
gpus=$1
shift
[ "$gpus" -eq 0 ] || set -- -gpu "num=$gpus" "$@"
bsub "$@" | sed -n 's/^Job <\([0-9]*\)>.*/\1/p'
