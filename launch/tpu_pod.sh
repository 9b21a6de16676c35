#!/usr/bin/env bash
# One run on a Cloud TPU, from the request for it to its deletion; from any machine with gcloud:
#
#     launch/tpu_pod.sh --name=moco --zone=us-central2-b --type=v4-64 --spot --setup='...' -- \
#         --config=configs/v3_vit.py:b16 --workdir=/mnt/runs/b16
#
#   --name=NAME        of the queued resource and of its nodes
#   --zone=ZONE        and --project=PROJECT, by default gcloud's
#   --type=TYPE        v4-64, v5litepod-64, v5p-128, v6e-64 ...
#   --runtime=VERSION  the workers' image: tpu-ubuntu2204-base (v4; the default),
#                      v2-alpha-tpuv5-lite, v2-alpha-tpuv5, v2-alpha-tpuv6e
#   --slices=N         so many slices of that type
#   --spot             cheaper, and taken away at any time
#   --create='FLAGS'   more for `gcloud compute tpus queued-resources create`: --reserved ...
#   --setup='COMMAND'  what each worker does before the start: to mount data and workdir
#   --keep             does not delete the TPU at the end
#   --dry-run          prints every command and runs none
#
# Copies this repository to all workers, starts launch/tpu_worker.sh there and follows the log. What
# was preempted is created again; workers that failed are started again. Ctrl-C leaves the run
# alone, and the same command follows it again. docs/launch.md has the rest.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

name='' zone='' project='' type='' runtime=tpu-ubuntu2204-base slices=1 spot='' create=''
setup='' keep='' dry=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --name=* | --zone=* | --project=* | --type=* | --runtime=* | --slices=* | --create=* | --setup=*)
      option=${1%%=*} && printf -v "${option#--}" %s "${1#*=}" ;;
    --spot | --keep) printf -v "${1#--}" %s yes ;;
    --dry-run) dry=yes ;;
    *) echo "$1: no such option; the first lines of $0 list them" >&2 && exit 2 ;;
  esac
  shift
done
if [ $# -lt 2 ] || [ -z "$name" ] || [ -z "$zone" ] || [ -z "$type" ]; then
  echo "needed: --name= --zone= --type= -- --config=... --workdir=..." >&2 && exit 2
fi
shift
printf -v arguments ' %q' "$@"
pause=${PAUSE:-30} # seconds between two questions
files=$(mktemp -d) && trap 'rm -rf "$files"' EXIT
trap leave INT TERM

say() { echo "[launch] $*" >&2; }
queued() {
  local command=(gcloud compute tpus queued-resources "$@" --zone="$zone" --quiet)
  [ -z "$project" ] || command+=(--project="$project")
  if [ -z "$dry" ]; then
    "${command[@]}" </dev/null
  else
    printf '%q ' "${command[@]}" >&2 && echo >&2
  fi
}
leave() {
  say "the run goes on; the same command follows it, and this ends it:"
  dry=yes queued delete "$name" --force
  exit 130
}
everywhere() { queued ssh "$name" --node=all --worker=all --command="$1"; }
first() { queued ssh "$name" --node=0 --worker=0 --command="moco_jax/launch/tpu_worker.sh $1"; }

# ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED ..., GONE where there is none; UNKNOWN: no answer.
state() {
  local said
  if said=$(queued describe "$name" --format='value(state.state)' 2>&1); then
    [ -z "$dry" ] || { echo "$said" >&2 && said=${created:-GONE}; }
    echo "${said##*$'\n'}"
  elif [[ $said == *NOT_FOUND* ]]; then
    echo GONE
  else
    say "$said" && echo UNKNOWN
  fi
}

request() {
  local nodes=(--node-id="$name") more
  [ "$slices" -gt 1 ] && nodes=(--node-count="$slices" --node-prefix="$name")
  read -ra more <<<"$create"
  queued create "$name" "${nodes[@]}" --accelerator-type="$type" --runtime-version="$runtime" \
    ${spot:+--spot} "${more[@]}"
}

# Waits until the TPU is there; requests it where it is gone, has failed or was preempted.
obtain() {
  local now
  while now=$(state) && [ "$now" != ACTIVE ]; do
    say "$name: $now"
    case $now in
      GONE) request || [ -n "${created:=}" ] || { say "the request was refused" && exit 1; }
        created=ACTIVE ;;
      FAILED | SUSPENDED) queued delete "$name" --force
        [ "$now" = SUSPENDED ] || count ;;
    esac
    [ -n "$dry" ] || sleep "$pause"
  done
}

deploy() {
  git ls-files --cached --others --exclude-standard | while read -r file; do
    [ -e "$file" ] && echo "$file"
  done | tar -czf "$files/moco_jax.tar.gz" -T - &&
    queued scp "$files/moco_jax.tar.gz" "$name:" --node=all --worker=all &&
    everywhere "mkdir -p moco_jax && tar -xzf moco_jax.tar.gz -C moco_jax" &&
    everywhere "moco_jax/launch/tpu_worker.sh install" &&
    { [ -z "$setup" ] || everywhere "$setup"; }
}

# Follows the log of worker 0, again after a dropped connection, to the end: sets `code`.
follow() {
  : >"$files/seen"
  code=gone
  while true; do
    first "follow $(($(wc -l <"$files/seen") + 1))" | tee -a "$files/seen"
    said=$(first status) && said=${said##*$'\n'}
    [ -z "$dry" ] || said="code 0"
    [[ $said == code* ]] && code=${said#code } && return
    [[ $(state) =~ ACTIVE|UNKNOWN ]] || return
    say "the connection to worker 0 dropped; connecting again" && sleep "$pause"
  done
}

# Counts starts in a row that failed within 10 minutes; gives up after 5.
count() {
  [ $((SECONDS - begin)) -lt 600 ] || failures=0
  [ $((++failures)) -le 5 ] || end "${code:-1}" "given up after $failures starts in a row"
  begin=$SECONDS
}

end() {
  say "$2"
  if [ -n "$keep" ]; then say "the TPU is kept, and costs"; else queued delete "$name" --force; fi
  exit "$1"
}

failures=0 begin=$SECONDS said=''
obtain
[ -n "${created:-}" ] || said=$(first status) # it was there before
created=ACTIVE
while true; do
  if [ "${said##*$'\n'}" != "running$arguments" ]; then
    if ! { deploy && everywhere "moco_jax/launch/tpu_worker.sh start$arguments"; }; then
      say "not all workers could be started"
      count
      sleep "$pause"
      obtain
      continue
    fi
  fi
  begin=$SECONDS
  follow
  case $code in
    0 | 2 | 3) end "$code" "ended with code $code" ;; # done; wrong input, diverged: not again
    gone) say "the TPU was taken away" ;;
    *) say "ended with code $code: starting all workers again" && count ;;
  esac
  said='' && obtain
done
