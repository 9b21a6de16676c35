#!/usr/bin/env bash
# One run on SLURM, a process for each GPU:
#
#     sbatch --account=NAME --partition=NAME --nodes=4 launch/slurm.sh \
#         --config=configs/v3_vit.py:b16 --workdir=/shared/runs/b16
#
# Submit from the repository, on a file system that all nodes share, with the environment active.
# Options of sbatch stand before the script and override the lines below. JAX finds the processes by
# itself. For one process a node, which drives all of its GPUs: --ntasks-per-node=1.
#
# CONTAINER is put before `python`: CONTAINER="apptainer exec --nv moco_jax.sif" sbatch ..., or
# Pyxis's options of srun: CONTAINER="--container-image=IMAGE --container-mounts=...".
#
# Two minutes before the time limit, and when it is preempted, the run saves and exits with code 75;
# the job is queued again and goes on where it stopped. docs/launch.md has the rest.
#SBATCH --job-name=moco_jax
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -uo pipefail

# By it the processes know each other, and no stranger (docs/reliability.md); srun hands it on.
: "${MOCO_JAX_RUN_TOKEN:=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}"
export MOCO_JAX_RUN_TOKEN

read -ra container <<<"${CONTAINER:-}"
# A failed process ends the others itself, within a minute; SLURM's own way would kill at once. And
# srun does not take over --cpus-per-task: each process would have one core.
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "${container[@]}" python -m moco_jax.main "$@"
code=$?  # the highest of all processes

case $code in
  0 | 2 | 3) exit "$code" ;; # done; wrong input (2) and divergence (3) would come again
esac
# What is killed or fails soon after the start is tried again a few times only.
if [ "$code" -eq 75 ] || [ "$SECONDS" -gt 600 ] || [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; then
  echo "code $code: queued again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
