#!/usr/bin/env bash
# One run on SLURM, a process for each GPU:
#
#     sbatch --nodes=4 launch/slurm.sh --config=configs/v3_vit.py:b16 --workdir=/shared/runs/b16
#
# Submit from the repository, on a file system that all nodes share, with the environment active.
# Two minutes before the time limit, and when it is preempted, the run saves and exits with code 75;
# the job is then queued again and goes on where it stopped. JAX finds the processes by itself.
# For one process a node, which then drives all of its GPUs: --ntasks-per-node=1 --gpus-per-node=8.
#SBATCH --job-name=moco_jax
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -uo pipefail

# A failed process ends the others itself, within a minute; SLURM's own way would kill at once.
srun --kill-on-bad-exit=0 python -m moco_jax.main "$@"
code=$?

# Killed processes, for want of memory for example, are tried again a few times only.
if [ "$code" -eq 75 ] || { [ "$code" -ge 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 5 ]; }; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
