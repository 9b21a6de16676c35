"""Several processes of one run on this machine, started again when one of them fails.

    python launch/local.py -n 4 -- --config=configs/demo.py --workdir=runs/demo

What follows `--` goes to `python -m moco_jax.main`. Each process takes its share of the GPUs, or
simulates devices on the CPU. When a process fails, or a signal to one of them has stopped all after
saving, all are started again and training goes on from the last checkpoint. SIGTERM and Ctrl-C to
this program stop the run: exit code 75. Codes 2 (wrong input) and 3 (the training diverged) are not
tried again: they would come again.
"""

import argparse
import contextlib
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

FINAL, RESTART = (2, 3), 75  # moco_jax/errors.py has the table


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, and in `main` what goes to moco_jax.main."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", "--processes", type=int, required=True)
    parser.add_argument("--devices-per-process", type=int, default=1)
    parser.add_argument(
        "--restarts", type=int, default=3, help="in a row without a new checkpoint (default 3)"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=60.0,
        help="seconds that the others have to end after the first (default 60)",
    )
    parser.add_argument("main", nargs="+", help="-- --config=... --workdir=...")
    options = parser.parse_args(arguments)
    if options.processes < 1 or options.devices_per_process < 1:
        parser.error("-n and --devices-per-process: at least 1")
    options.workdir = workdir_of(options.main)
    if options.workdir is None:
        parser.error("--workdir=DIR is missing after --")
    return options


def workdir_of(arguments: Sequence[str]) -> str | None:
    """The value of --workdir."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "workdir":
            return value or following
    return None


def free_port() -> int:
    """A port that is free, and the next one too."""
    while True:
        with socket.create_server(("", 0)) as first:
            port = first.getsockname()[1]
            with (
                contextlib.suppress(OSError, OverflowError),
                socket.create_server(("", port + 1)),
            ):
                return port


def newest_checkpoint(workdir: str) -> int:
    """The last step that was saved; -1 where there is none, or a bucket does not tell."""
    if "://" in workdir:
        from moco_jax.bucket import BucketPath
        from moco_jax.checkpoint.bucketed import steps as steps_of

        with contextlib.suppress(OSError):
            return max(steps_of(BucketPath(workdir) / "checkpoints"), default=-1)
        return -1
    folder = pathlib.Path(workdir).expanduser() / "checkpoints"
    return max((int(p.name) for p in folder.glob("*") if p.name.isdigit()), default=-1)


def start(options: argparse.Namespace) -> list[subprocess.Popen]:
    """Starts all processes, each with a session and a prefix of its own."""
    port, k, token = free_port(), options.devices_per_process, secrets.token_hex(16)
    processes = []
    for index in range(options.processes):
        environment = os.environ | {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(options.processes),
            "JAX_PROCESS_ID": str(index),
            "MOCO_JAX_RUN_TOKEN": token,
            "JAX_LOCAL_DEVICE_IDS": ",".join(str(index * k + i) for i in range(k)),
            "JAX_NUM_CPU_DEVICES": str(k),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "moco_jax.main", *options.main],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=copy_output, args=[process, index], daemon=True).start()
        processes.append(process)
    return processes


def copy_output(process: subprocess.Popen, index: int) -> None:
    """Writes a process's lines with its number in front."""
    for line in process.stdout:
        sys.stderr.write(f"[{index}] {line}")
        sys.stderr.flush()


def wait(processes: list[subprocess.Popen], grace: float, signals: list[int]) -> list[int]:
    """Waits for all; once one has failed the others have `grace` seconds. Returns exit codes.

    `signals` are those that came, before or meanwhile: the first goes to all, a second kills. They
    are passed on here and not where they come in, when some processes may not be known yet.
    """
    deadline, passed = None, 0
    while any(process.poll() is None for process in processes):
        for number in signals[passed:]:
            pass_on(processes, number) if passed == 0 else kill(processes)
            passed += 1
        if deadline is None and any(process.returncode for process in processes):
            deadline = time.monotonic() + grace
        if deadline and time.monotonic() > deadline:
            say(f"still running {grace:.0f} s after the first ended: killed")
            break
        time.sleep(0.05)
    kill(processes)
    return [process.wait() for process in processes]


def pass_on(processes: list[subprocess.Popen], number: int) -> None:
    """Sends a signal to those that still run."""
    for process in processes:
        process.send_signal(number)


def kill(processes: list[subprocess.Popen]) -> None:
    """Kills what is left of the processes and of their children."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def say(text: str) -> None:
    """Writes a line of this program's own."""
    print(f"[launch] {text}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> int:
    """Starts and restarts; returns the exit code."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    in_vain, saved = 0, newest_checkpoint(options.workdir)
    while True:
        codes = wait(start(options), options.grace, stopped)
        say(f"exit codes {codes}, last checkpoint {newest_checkpoint(options.workdir)}")
        if not any(codes):
            return 0
        if final := [code for code in codes if code in FINAL]:
            return final[0]
        if stopped:
            return RESTART
        before, saved = saved, newest_checkpoint(options.workdir)
        in_vain = 0 if saved > before else in_vain + 1
        if in_vain > options.restarts:
            say(f"given up: {in_vain} times in a row without a new checkpoint")
            return 1
        say("starting all again")


if __name__ == "__main__":
    sys.exit(run(parse(sys.argv[1:])))
