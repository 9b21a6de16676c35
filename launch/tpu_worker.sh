#!/usr/bin/env bash
# What launch/tpu_pod.sh has every worker of a TPU do:
#
#     tpu_worker.sh install | start FLAG... | stop | status | follow LINE
#
# The run does not hang on the connection that started it. Its files are in ~/.moco_jax.
set -euo pipefail
cd "$(dirname "$0")/.."
here=~/.moco_jax && mkdir -p "$here"
export PATH=~/.local/bin:$PATH

# Whether anything of the run is alive, and could hold the chips.
alive() {
  ps -eo pgid=,stat= | awk -v group="$(cat "$here/group" 2>/dev/null)" \
    '$1 == group && $2 !~ /^Z/ { found = 1 } END { exit !found }'
}

install() { # the images have Python 3.10
  command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
  uv venv --quiet --allow-existing --python=3.12 .venv
  uv pip install --quiet --python=.venv/bin/python -c constraints.txt -e '.[all,tpu]'
}

start() {
  stop
  rm -f "$here/code" && printf ' %q' "$@" >"$here/arguments"
  # After --config, or absl refuses it; a CPU would be worse than an error.
  [[ "$*" == *--config.backend=* ]] || set -- "$@" --config.backend=tpu
  # shellcheck disable=SC2016 # the new shell's variables; its trap lets it outlive a SIGTERM
  setsid bash -c 'echo $$ >"$0/group"; trap : TERM; "$@"; echo "code $?" >"$0/code"' "$here" \
    .venv/bin/python -m moco_jax.main "$@" >"$here/log" 2>&1 </dev/null &
  until [ -s "$here/group" ]; do sleep 0.1; done
}

# SIGTERM, upon which the run saves; what is left after two minutes is killed.
stop() {
  if alive; then
    kill -TERM -- "-$(cat "$here/group")"
    for _ in $(seq "${GRACE:-120}"); do alive && sleep 1; done
    alive && kill -KILL -- "-$(cat "$here/group")"
  fi
  rm -f "$here/group"
}

# `running` with its flags, or `code` with the number with which it ended.
status() {
  if [ -e "$here/code" ]; then
    cat "$here/code"
  elif alive; then
    echo "running$(cat "$here/arguments")"
  else
    echo "code 137" # killed, or the machine was restarted
  fi
}

follow() {
  tail -n "+$1" -F "$here/log" 2>/dev/null &
  trap 'kill $!' EXIT
  while [[ $(status) == running* ]]; do sleep 1; done
  sleep 1
}

"$@"
