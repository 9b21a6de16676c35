"""Runs of several real processes under launch/local.py, disturbed and not."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from moco_jax import checkpoint, metrics, results
from moco_jax.errors import EXIT_RESTART, EXIT_WRONG_INPUT
from tests.conftest import CACHE
from tests.tiny import write_config_file

ROOT = pathlib.Path(__file__).parents[2]
LAST = 20
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))} | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_backend_optimization_level=0",
    "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE)),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    "PYTHONPATH": str(ROOT),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes")
    write_config_file(path)
    return path


@contextlib.contextmanager
def launched(home, method, workdir, processes, *flags):
    """The launcher of so many processes of one device; nothing of it outlives the context."""
    launcher = subprocess.Popen(
        [sys.executable, "launch/local.py", "-n", str(processes), "--",
         f"--config={home}/config.py:{method}", f"--workdir={workdir}", *flags],
        cwd=ROOT, env=ENVIRONMENT, stderr=(log := open(f"{workdir}.log", "ab")),  # noqa: SIM115
        start_new_session=True,
    )  # fmt: skip
    try:
        yield launcher
    finally:
        for _ in range(2):  # the second one kills
            if launcher.poll() is None:
                launcher.terminate()
                time.sleep(0.5)
        launcher.wait(30)
        log.close()


def output(workdir):
    return pathlib.Path(f"{workdir}.log").read_text()


def complete(home, method, workdir, processes, *flags):
    with launched(home, method, workdir, processes, *flags) as launcher:
        assert launcher.wait(400) == 0, output(workdir)


def losses(workdir):
    rows = [row for row in metrics.read(workdir) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, LAST + 1)), "one row a step, none twice"
    return np.array([row["loss"] for row in rows])


def saved(workdir, step=LAST):
    """The checksums of everything in a checkpoint, which are verified in reading."""
    return checkpoint.read(workdir / "checkpoints" / str(step))[1]["checksums"]


def wait_until(condition, launcher, workdir):
    deadline = time.monotonic() + 300
    while not condition():
        assert launcher.poll() is None, output(workdir)
        assert time.monotonic() < deadline, output(workdir)
        time.sleep(0.01)


def reached(workdir, step, checkpoint_too=True):
    """Whether the run has logged a step, and saved before."""
    rows = metrics.read(workdir) if (workdir / metrics.FILE).exists() else []
    some = any(p.name.isdigit() for p in workdir.glob("checkpoints/*"))
    return bool(rows) and rows[-1]["step"] >= step and (some or not checkpoint_too)


def process(launcher, index):
    """The process id of one of the launcher's processes."""
    for line in subprocess.check_output(
        ["ps", "-o", "pid=", "--ppid", str(launcher.pid)], text=True
    ).split():
        environment = pathlib.Path(f"/proc/{line}/environ").read_bytes().split(b"\0")
        if f"JAX_PROCESS_ID={index}".encode() in environment:
            return int(line)
    raise AssertionError(f"no process {index}")


@pytest.fixture(scope="module")
def alone(home):
    """method -> the losses of one process with one device."""
    done = {}

    def of(method):
        if method not in done:
            complete(home, method, home / f"{method}-1", 1)
            done[method] = losses(home / f"{method}-1")
        return done[method]

    return of


def assert_same_curve(many, one):
    """Sums run in another order: the first steps agree to 1e-5; the difference then grows as
    training amplifies it, so the last are held to 1e-3."""
    np.testing.assert_allclose(many[:5], one[:5], rtol=1e-5)
    np.testing.assert_allclose(many, one, rtol=1e-3)


@pytest.mark.processes
def test_two_processes_give_the_losses_of_one(home, alone):
    complete(home, "v1", home / "v1-2", 2)
    assert_same_curve(losses(home / "v1-2"), alone("v1"))
    assert len(set(alone("v1"))) == LAST
    raw = [metrics.read(home / name)[0]["knn_top1_raw"] for name in ("v1-1", "v1-2")]
    assert raw[0] == raw[1] > 0.9
    one, two = (results.read(home / name) for name in ("v1-1", "v1-2"))
    assert [r["settings"] for r in two] == [r["settings"] for r in one] != []


@pytest.mark.processes
@pytest.mark.parametrize(
    ("method", "processes"), [("v1", 4), ("v2", 2), ("v2", 4), ("v3", 2), ("v3", 4)]
)
def test_any_number_of_processes_gives_the_losses_of_one(method, processes, home, alone):
    workdir = home / f"{method}-{processes}"
    complete(home, method, workdir, processes)
    assert_same_curve(losses(workdir), alone(method))


@pytest.mark.processes
def test_parameters_split_over_processes_and_a_cache_of_programs(home, alone):
    workdir, cache = home / "split", home / "programs"
    flags = ("--config.mesh.fsdp=2", f"--config.compilation_cache={cache}")
    complete(home, "v1", workdir, 2, *flags)
    assert_same_curve(losses(workdir), alone("v1"))
    assert any("train_step" in path.name for path in cache.iterdir())


@pytest.fixture(scope="module")
def undisturbed(home):
    """Checksums of the last state of 4 processes that nothing happens to."""
    complete(home, "v1", home / "undisturbed", 4)
    return saved(home / "undisturbed")


@pytest.mark.processes
def test_sigterm_to_one_saves_all_at_one_step_and_training_goes_on(home, undisturbed):
    workdir = home / "terminated"
    with launched(home, "v1", workdir, 4, "--config.checkpoint.every_steps=0") as launcher:
        wait_until(lambda: reached(workdir, 4, checkpoint_too=False), launcher, workdir)
        os.kill(process(launcher, 2), signal.SIGTERM)
        assert launcher.wait(400) == 0, output(workdir)
    text = output(workdir)
    assert f"exit codes {[EXIT_RESTART] * 4}" in text
    steps = {int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()}
    (stopped,) = steps - {LAST}
    assert 4 <= stopped < LAST
    assert f"Resuming at step {stopped} of {LAST}" in text
    assert saved(workdir) == undisturbed
    losses(workdir)


@pytest.mark.processes
@pytest.mark.parametrize("victim", [0, 3])
def test_a_killed_process_ends_the_others_and_training_goes_on(victim, home, undisturbed):
    workdir = home / f"killed-{victim}"
    with launched(home, "v1", workdir, 4) as launcher:
        wait_until(lambda: reached(workdir, 7), launcher, workdir)
        os.kill(process(launcher, victim), signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: "exit codes" in output(workdir), launcher, workdir)
        assert time.monotonic() - killed < 60
        assert launcher.wait(400) == 0, output(workdir)
    text = output(workdir)
    assert f"Process {victim} " in text
    assert "died; the same command resumes" in text
    assert "Resuming at step" in text
    assert saved(workdir) == undisturbed
    losses(workdir)


@pytest.mark.processes
def test_a_damaged_checkpoint_is_set_aside_by_all(home, undisturbed):
    workdir = home / "damaged"
    shutil.copytree(home / "undisturbed", workdir)
    for path in (workdir / "checkpoints" / str(LAST) / "state" / "d").iterdir():
        os.truncate(path, path.stat().st_size // 2)
    complete(home, "v1", workdir, 4)
    assert (workdir / "checkpoints" / f"damaged-{LAST}").is_dir()
    assert "Resuming at step 18 of 20" in output(workdir)
    assert saved(workdir) == undisturbed


@pytest.mark.processes
def test_two_then_four_then_one_process_go_on_with_the_same_run(home, alone):
    workdir = home / "moving"
    for processes, step in ((2, 5), (4, 11)):
        with launched(home, "v1", workdir, processes) as launcher:
            wait_until(lambda at=step: reached(workdir, at), launcher, workdir)
            launcher.terminate()
            assert launcher.wait(120) == EXIT_RESTART, output(workdir)
    complete(home, "v1", workdir, 1)
    assert output(workdir).count("Resuming at step") == 2
    assert_same_curve(losses(workdir), alone("v1"))


def start(home, count, index, workdir, *flags, cwd=ROOT):
    """One process of several, with explicit flags."""
    command = [sys.executable, "-m", "moco_jax.main", f"--config={home}/config.py:v3"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", f"--num_processes={count}", f"--process_id={index}",
         *flags],
        cwd=cwd, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(processes):
    """Exit codes and outputs."""
    try:
        texts = [p.communicate(timeout=120)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()
    return [p.returncode for p in processes], texts


@pytest.fixture
def coordinator():
    from launch.local import free_port

    return f"--coordinator=127.0.0.1:{free_port()}"


@pytest.mark.processes
def test_a_missing_process_is_named(home, coordinator):
    flags = (coordinator, "--start_timeout=20")
    codes, texts = ended([start(home, 3, i, home / "missing", *flags) for i in (0, 2)])
    assert codes == [EXIT_RESTART] * 2
    assert all("Missing after 20 s: process 1 of 3 (here: 0 on " in text for text in texts)


@pytest.mark.processes
def test_another_config_is_refused_by_all(home, coordinator):
    odd = "--config.method.temperature=0.3"
    processes = [start(home, 2, 0, home / "c", coordinator)]
    processes += [start(home, 2, 1, home / "c", coordinator, odd)]
    codes, texts = ended(processes)
    assert codes == [EXIT_WRONG_INPUT] * 2
    for text in texts:
        assert "The processes' config differ:" in text
        assert "\n-method.temperature = 0.2\n+method.temperature = 0.3" in text


@pytest.mark.processes
def test_another_workdir_is_refused_by_all(home, coordinator):
    codes, texts = ended([start(home, 2, i, home / f"d{i}", coordinator) for i in range(2)])
    assert codes == [EXIT_WRONG_INPUT] * 2
    for text in texts:
        assert "The workdir must be the same for all processes" in text
        assert f"process 1 on {os.uname().nodename}: {home}/d1" in text
    assert not list(home.glob("d0/.shared*"))


@pytest.mark.processes
def test_a_workdir_of_an_unknown_scheme_of_one_is_refused_by_all(home, coordinator):
    workdirs = enumerate((home / "b", "ftp://host/b"))
    codes, texts = ended([start(home, 2, i, path, coordinator) for i, path in workdirs])
    assert codes == [EXIT_WRONG_INPUT] * 2
    assert all("workdir='ftp://host/b': ftp:// is not supported" in text for text in texts)


@pytest.mark.processes
def test_an_error_of_one_process_ends_all_with_its_code(home, coordinator):
    """Only process 0 runs where the images are."""
    flags = (coordinator, "--config.data.source=npz:images.npz")
    places = enumerate((home, ROOT))
    codes, texts = ended([start(home, 2, i, home / "e", *flags, cwd=cwd) for i, cwd in places])
    assert codes == [EXIT_WRONG_INPUT] * 2
    assert "[process 1] ERROR: " in texts[1]
    assert "Process 1 on " in texts[0]
    assert "images.npz" in texts[0]
