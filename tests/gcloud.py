"""A stand-in for gcloud: records its calls; a TPU's workers are folders and processes here.

$STAND_IN is its folder: calls.jsonl; `state` of the one queued resource, absent where there is
none; node-N/worker-M, the workers' homes; `drop`, whose presence breaks the next connection that
follows a log. program.py there, if any, plays the part of Python.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

HERE = pathlib.Path(os.environ["STAND_IN"])
WORKERS = 2  # of a node
UV = """#!/bin/sh
[ "$1" = venv ] || exit 0
mkdir -p .venv/bin
printf '#!/bin/sh\\nexec %s "$@"\\n' "{python}" >.venv/bin/python
chmod +x .venv/bin/python
"""


def parse(arguments):
    """Takes the flags that launch/tpu_pod.sh may use, as gcloud does, and no other."""
    assert arguments[:3] == ["compute", "tpus", "queued-resources"], arguments
    parser = argparse.ArgumentParser(allow_abbrev=False)
    commands = parser.add_subparsers(dest="command_name", required=True)
    known = {
        "create": ["--accelerator-type", "--runtime-version", "--node-id", "--node-count",
                   "--node-prefix", "--network"],
        "describe": ["--format"], "delete": [],
        "ssh": ["--node", "--worker", "--command"], "scp": ["--node", "--worker"],
    }  # fmt: skip
    for name, flags in known.items():
        command = commands.add_parser(name, allow_abbrev=False)
        command.add_argument("names", nargs=2 if name == "scp" else 1)
        for flag in ("--zone", "--project", *flags):
            command.add_argument(flag)
        for flag in ("--quiet", "--spot", "--reserved", "--force"):
            command.add_argument(flag, action="store_true")
    return parser.parse_args(arguments[3:])


def state(value=None):
    """Reads or writes the state."""
    path = HERE / "state"
    if value:
        path.write_text(value)
    return path.read_text() if path.exists() else None


def describe(_):
    now = state()
    if not now:
        print("ERROR: (gcloud) NOT_FOUND: Resource was not found", file=sys.stderr)
        return 1
    print(now)
    state({"WAITING_FOR_RESOURCES": "ACTIVE"}.get(now, now))
    return 0


def create(flags):
    assert not state(), "it exists"
    for node in range(int(flags.node_count or 1)):
        for worker in range(WORKERS):
            (HERE / f"node-{node}/worker-{worker}/.local/bin").mkdir(parents=True)
    state("WAITING_FOR_RESOURCES")
    return 0


def take_away():
    """What a preemption does to machines: their processes and disks are gone."""
    for home in HERE.glob("node-*/worker-*"):
        group = home / ".moco_jax/group"
        if group.exists():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(group.read_text()), signal.SIGKILL)
    for node in HERE.glob("node-*"):
        shutil.rmtree(node, ignore_errors=True)


def delete(flags):
    assert flags.force
    assert state()
    take_away()
    (HERE / "state").unlink()
    return 0


def homes(flags):
    """The chosen workers' folders, in the order of their processes."""
    found = sorted(HERE.glob("node-*/worker-*"))
    if flags.node != "all":
        found = [home for home in found if home.parent.name == f"node-{flags.node or 0}"]
    return found if flags.worker == "all" else [found[int(flags.worker or 0)]]


def scp(flags):
    source, target = flags.names
    assert target.endswith(":")
    for home in homes(flags):
        shutil.copy(source, home)
    return 0


def ssh(flags):
    if state() != "ACTIVE":
        return 255
    drop = HERE / "drop"
    dropped = "follow" in flags.command and drop.exists()
    everyone = sorted(HERE.glob("node-*/worker-*"))
    running = [start(home, everyone, flags.command) for home in homes(flags)]
    copies = [threading.Thread(target=copy, args=[p.stdout], daemon=True) for p in running]
    for thread in copies:
        thread.start()
    if dropped:
        drop.unlink()
        copies[0].join(2)
        return 255  # what runs there finds its output broken
    for thread in copies:
        thread.join()
    return max(process.wait() for process in running)


def copy(lines):
    """Passes on what a worker says."""
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()


def start(home, everyone, command):
    """Runs a command as a worker does whose metadata say which one it is."""
    program = HERE / "program.py"
    python = f"{sys.executable} {program}" if program.exists() else sys.executable
    uv = home / ".local/bin/uv"
    uv.write_text(UV.format(python=python))
    uv.chmod(0o755)
    environment = os.environ | {
        "HOME": str(home),
        "GRACE": "2",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{os.environ.get('STAND_IN_PORT', '8476')}",
        "JAX_NUM_PROCESSES": str(len(everyone)),
        "JAX_PROCESS_ID": str(everyone.index(home)),
    }
    return subprocess.Popen(["bash", "-c", command], cwd=home, env=environment, text=True,
                            stdout=subprocess.PIPE)  # fmt: skip


if __name__ == "__main__":
    with open(HERE / "calls.jsonl", "a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    given = parse(sys.argv[1:])
    run = {"describe": describe, "create": create, "delete": delete, "scp": scp, "ssh": ssh}
    sys.exit(run[given.command_name](given))
