#!/usr/bin/env bash
# One run on all workers of a Cloud TPU pod slice, started again when workers fail:
#
#     TPU=my-v4-64 ZONE=us-central2-b launch/tpu_pod.sh \
#         --config=configs/v3_vit.py:b16 --workdir=/mnt/shared/runs/b16
#
# The workdir is a file system that all workers mount (Filestore, or a bucket by gcsfuse). Every
# worker has the repository in ~/moco_jax, installed with `pip install -e '.[tpu]'`:
#
#     gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command='
#       git clone ... moco_jax && pip install -e "moco_jax[tpu]" -c moco_jax/constraints.txt'
#
# The workers find each other by the TPU's metadata. They use the ports 8476 and 8477 of worker 0
# among themselves: the network's firewall has to let them through.
set -uo pipefail
: "${TPU:?name of the TPU}" "${ZONE:?zone of the TPU}"

printf -v arguments ' %q' "$@"
command="cd ~/moco_jax && python3 -m moco_jax.main --config.backend=tpu$arguments"

for attempt in $(seq "${ATTEMPTS:-20}"); do
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$command"
  code=$?
  # Done, or wrong input, which would fail again. Of several workers' codes gcloud tells one.
  if [ "$code" -eq 0 ] || [ "$code" -eq 2 ]; then
    exit "$code"
  fi
  echo "attempt $attempt ended with code $code: starting all workers again" >&2
  sleep 10
done
exit "$code"
