"""Tiny runs as programs, stopped at a place of choice, and what they leave behind."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time

from launch.local import free_port
from moco_jax import checkpoint, metrics
from moco_jax.bucket import place
from tests.conftest import CACHE
from tests.tiny import write_config_file

ROOT = pathlib.Path(__file__).parents[2]
LAST = 20
WAIT = 240  # seconds, on a machine that is busy with other things
STEP, SAVE = "moco_jax.training.interval:Interval.add", "moco_jax.checkpoint:Checkpoints.save"
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))} | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
}


class Run:
    """A run of `home/config.py:v3` in a workdir.

    Keywords other than `limit`, a command of bash before the start, and `variables` of the
    environment are those of tests.faults.impatient.
    """

    def __init__(self, home, workdir, *flags, limit="true", variables=(), **disturbance):
        name = f"{home}/{time.monotonic_ns()}"
        self.workdir, self.at, self.log = place("workdir", workdir), f"{name}.at", f"{name}.log"
        self.gate = f"{name}.go"
        places = {"FAULT_AT": self.at, "FAULT_GO": self.gate}
        places |= {f"FAULT_{kind.upper()}": value for kind, value in disturbance.items()}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f'{limit}; exec "$@"', "-", sys.executable, "-m",
                 "tests.faults.impatient", f"--config={home}/config.py:v3",
                 f"--workdir={workdir}", *flags],
                cwd=ROOT, env=ENVIRONMENT | dict(variables) | places, stderr=log,
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def at_gate(self):
        """Waits until the gate is reached."""
        self.wait_until(pathlib.Path(self.at).exists)
        return self

    def go(self):
        """Opens the gate."""
        pathlib.Path(self.gate).touch()
        return self

    def wait_until(self, condition):
        deadline = time.monotonic() + WAIT
        while not condition():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)

    def text(self):
        """What it has said."""
        return pathlib.Path(self.log).read_text(errors="replace")

    def signal(self, number):
        """Sends a signal."""
        self.process.send_signal(number)
        return self

    def end(self, code):
        """Waits for its end, checks the exit code, and returns what it said."""
        assert self.process.wait(WAIT) == code, self.text()
        assert "Traceback" not in self.text(), self.text()
        return self.text()


@contextlib.contextmanager
def two(home, workdir, *flags, first=(), second=(), **both):
    """Two processes of a run, and the coordinator's port."""
    port = free_port()
    flags = (*flags, f"--coordinator=127.0.0.1:{port}", "--num_processes=2")
    with (
        Run(home, workdir, *flags, "--process_id=0", **both, **dict(first)) as zero,
        Run(home, workdir, *flags, "--process_id=1", **both, **dict(second)) as one,
    ):
        yield zero, one, port


def complete(home, workdir, *flags):
    """Runs to the end; what it said."""
    with Run(home, workdir, *flags) as run:
        return run.end(0)


def saved(workdir, step=LAST):
    """The checksums of everything in a checkpoint, which are verified in reading."""
    return checkpoint.read(pathlib.Path(workdir) / "checkpoints" / str(step))[1]["checksums"]


def steps(workdir):
    """The steps of the rows of metrics."""
    return [row["step"] for row in metrics.read(workdir)]


def write_home(path):
    write_config_file(path)
    return path
