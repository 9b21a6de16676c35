"""launch/slurm.sh on a real SLURM: preempted, killed, cancelled, wrong (make slurm)."""

import os
import pathlib
import re
import signal
import sys

import pytest

from moco_jax import metrics
from moco_jax.errors import EXIT_WRONG_INPUT
from tests.conftest import CACHE
from tests.launch import cluster
from tests.launch.cluster import wait_for
from tests.tiny import write_config_file

pytestmark = pytest.mark.slurm
ROOT = pathlib.Path(__file__).parents[2]
STEPS = 200
TASKS = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1")
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if absent := cluster.missing():
        pytest.fail(f"no {', '.join(absent)}: on Debian, apt-get install slurm-wlm munge")
    started = cluster.Cluster(tmp_path_factory.mktemp("slurm"))
    started.environment |= {
        "PATH": f"{pathlib.Path(sys.executable).parent}:{started.environment['PATH']}",
        "CONTAINER": "env IN_CONTAINER=yes",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)),
        "PYTHONPATH": str(ROOT),
    }
    yield started
    started.close()


class Job:
    """A run that was submitted; its workdir, log and state."""

    def __init__(self, slurm, folder, *flags):
        write_config_file(folder)
        self.slurm, self.workdir = slurm, folder / "run"
        said = slurm.run(
            "sbatch", *TASKS, f"--output={folder}/log", f"--chdir={ROOT}", "launch/slurm.sh",
            f"--config={folder}/config.py:v1", f"--workdir={self.workdir}",
            f"--config.epochs={STEPS / 5}", "--config.knn.every_epochs=0.0", *flags,
        )  # fmt: skip
        self.number = re.fullmatch(r"Submitted batch job (\d+)\n", said)[1]
        self.log = folder / "log"

    def text(self):
        return self.log.read_text() if self.log.exists() else ""

    def until_saved(self, step):
        wait_for(lambda: self.step() >= step and self.saved(), 200, self.text)

    def step(self):
        there = (self.workdir / metrics.FILE).exists()
        rows = metrics.read(self.workdir) if there else []
        return rows[-1]["step"] if rows else -1

    def saved(self):
        return any(p.name.isdigit() for p in self.workdir.glob("checkpoints/*"))

    def process(self, rank):
        """The process id of one of the two processes."""
        wanted = {f"SLURM_JOB_ID={self.number}", f"SLURM_PROCID={rank}", "IN_CONTAINER=yes"}
        wanted = set(map(str.encode, wanted))
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                environment = set((path / "environ").read_bytes().split(b"\0"))
                command = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted <= environment and b"moco_jax.main" in command[:4]:
                return int(path.name)
        raise AssertionError(f"no process {rank}: {self.text()}")

    def end(self):
        """What SLURM knows of the job once it is over."""
        wait_for(lambda: self.slurm.job(self.number)["JobState"] in OVER, 300, self.text)
        return self.slurm.job(self.number)


def assert_resumed_and_complete(job):
    end = job.end()
    assert (end["JobState"], end["ExitCode"]) == ("COMPLETED", "0:0"), job.text()
    assert int(end["Restarts"]) == 1
    assert job.text().count("All are here: 0 on ") == 2, "two processes, twice"
    assert len(re.findall(r"Resuming at step [1-9]", job.text())) == 1
    steps = [row["step"] for row in metrics.read(job.workdir)]
    assert steps == list(range(STEPS + 1)), "one row a step, none twice"


def test_preempted_it_saves_and_goes_on(slurm, tmp_path):
    job = Job(slurm, tmp_path, "--config.checkpoint.every_steps=0")
    wait_for(lambda: job.step() >= 5, 200, job.text)
    slurm.run("scontrol", "requeue", job.number)
    assert_resumed_and_complete(job)
    assert "SIGTERM to process" in job.text()


def test_shortly_before_the_time_limit_it_saves_and_goes_on(slurm, tmp_path):
    """The signal of `--signal=TERM@120`, which SLURM sends to the processes only."""
    job = Job(slurm, tmp_path, "--config.checkpoint.every_steps=0")
    wait_for(lambda: job.step() >= 5, 200, job.text)
    slurm.run("scancel", "--signal=TERM", job.number)
    assert_resumed_and_complete(job)
    assert "code 75: queued again" in job.text()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_has_all_started_again(rank, slurm, tmp_path):
    job = Job(slurm, tmp_path)
    job.until_saved(5)
    os.kill(job.process(rank), signal.SIGKILL)
    assert_resumed_and_complete(job)
    assert "code 137: queued again" in job.text()


@pytest.mark.parametrize(
    "wrong", ["--config.data.source=npz:/missing.npz", "--config.method.name=mocco"]
)
def test_a_wrong_config_is_not_queued_again(wrong, slurm, tmp_path):
    end = (job := Job(slurm, tmp_path, wrong)).end()
    assert (end["JobState"], end["ExitCode"]) == ("FAILED", f"{EXIT_WRONG_INPUT}:0"), job.text()
    assert end["Restarts"] == "0"
    assert "queued again" not in job.text()


def test_a_cancelled_job_saves_and_stays_cancelled(slurm, tmp_path):
    job = Job(slurm, tmp_path, "--config.checkpoint.every_steps=0")
    wait_for(lambda: job.step() >= 5, 200, job.text)
    slurm.run("scancel", job.number)
    assert job.end()["JobState"] == "CANCELLED"
    wait_for(job.saved, 60, job.text)
    assert job.end()["Restarts"] == "0"
