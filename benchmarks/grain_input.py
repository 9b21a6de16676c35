"""Grain beside our loader: the same two-view stream, its cost, and what it does when hurt.

    python -m benchmarks.grain_input --config=configs/v2_r50.py --generate=500 --rounds=5

Needs Grain, which the package does not: `pip install -c constraints.txt grain`. Each figure comes
from a fresh process, each of Grain's right after its peer's; a ratio is the median of such pairs.
The forms are those of `grain_stream.stream`.
"""

import hashlib
import itertools
import json
import logging
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import grain_stream, images
from benchmarks.input import CONFIG, GENERATE, ROUNDS, children, cpu_seconds, memory
from moco_jax.data import loader, pipeline

FORM = flags.DEFINE_string("form", "", "Of one measurement in this process; '': all, each in its.")
TRIAL = flags.DEFINE_string("trial", "", "What is measured of that form.")
START = flags.DEFINE_integer("start", 0, "Step at which the stream starts.")

PAIRS = {  # Grain and its peer: ours has no single process beside the trainer's
    "grain threads 1": "ours threads 1",
    "grain threads 2": "ours threads 2",
    "grain whole 1": "ours threads 1",
    "grain whole 2": "ours threads 2",
    "grain processes 1": "ours threads 1",
    "grain processes 2": "ours processes 2",
}
FORMS = sorted({*PAIRS, *PAIRS.values()}, reverse=True)
_IMAGES = 2048  # that are timed
_FIRST = 6  # batches that are compared, and what was ready ahead of the clock
_FAR = 100_000  # a step to resume at
_PATIENCE = 30  # seconds, after which a stream goes on as if nothing was, or hangs
_LIMIT = 200  # seconds of a whole trial


def digest(batch: loader.Batch) -> str:
    """What two batches have in common when all their numbers are the same."""
    numbers = [batch[key] for key in ("index", "epoch", "label")]
    views = batch["image"] if "image" in batch else np.stack(batch["crops"], 1)
    columns = [views, *numbers]
    return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:8]


def first(form: str, data: ConfigDict) -> dict[str, Any]:
    """Start-up, and what the first batches hold."""
    begin = time.monotonic()
    with grain_stream.stream(form, data, START.value) as batches:
        digests = [digest(next(batches))]
        started = time.monotonic() - begin
        return {"s": started, "digests": digests + [digest(next(batches)) for _ in range(_FIRST)]}


def on_its_way(pids: list[int]) -> float:
    """GB of shared memory that waits between two processes: it counts as nobody's."""
    maps = "".join(pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    files = pathlib.Path("/dev/shm").glob("psm_*")
    return sum(file.stat().st_size for file in files if file.name not in maps) / 1e9


def rates(form: str, data: ConfigDict) -> dict[str, float]:
    """Speed while the consumer waits; then memory when it has let all buffers fill."""
    steps = max(8, _IMAGES // data.batch_size)
    with grain_stream.stream(form, data, START.value) as batches:
        for _ in range(_FIRST):
            next(batches)
        pids = [os.getpid(), *children()]
        begin, used = time.monotonic(), sum(map(cpu_seconds, pids))
        for _ in range(steps):
            next(batches)
        wall, used = time.monotonic() - begin, sum(map(cpu_seconds, pids)) - used
        cpu = [0.0, 1.0]
        while cpu[-1] > cpu[-2] + 0.05:  # at rest when all buffers are full
            time.sleep(2)
            cpu.append(sum(map(cpu_seconds, pids)))
        held = memory(pids) + on_its_way(pids)
    seen = steps * data.batch_size
    return {"images/s": seen / wall, "images/CPU s": seen / used, "GB": held}


def until_error(batches: Iterator[loader.Batch]) -> str:
    """What comes of going on, and after how long."""
    begin = time.monotonic()
    for count in itertools.count():
        try:
            next(batches)
        except Exception as error:
            after = f"{count} batches and {time.monotonic() - begin:.1f} s later"
            return f"{type(error).__name__} {after}: {str(error)[:200]}"
        if time.monotonic() - begin > _PATIENCE:
            return f"none within {count} batches, {_PATIENCE} s"


def killed_worker(form: str, data: ConfigDict) -> dict[str, str]:
    """One of the workers is killed."""
    with grain_stream.stream(form, data, START.value) as batches:
        next(batches)
        os.kill(children()[-1], signal.SIGKILL)
        return {"error": until_error(batches), "then": until_error(batches)}


def killed_trainer(form: str, data: ConfigDict) -> None:
    """Names the workers, then is killed in the middle."""
    with grain_stream.stream(form, data, START.value) as batches:
        next(batches)
        print(json.dumps(children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def unreadable(form: str, data: ConfigDict) -> dict[str, Any]:
    """An epoch with unreadable images, tallied in the trainer's process."""
    source, named, indices = pipeline.open_data(data).train, [], []
    tally = loader.Tally(source, data.max_bad_share)
    loader.log.addFilter(lambda record: named.append(record.getMessage()))
    with grain_stream.stream(form, data, START.value) as batches:
        for batch in itertools.islice(batches, len(source) // data.batch_size):
            indices += batch["index"].tolist()
            if "unreadable" in batch:
                errors = [tuple(filter(None, text.split("\n"))) for text in batch["unreadable"]]
                tally.count(list(map(loader.Loaded, batch["index"], batch["label"], errors)))
    return {"named in the log": len(named), "indices": hash(tuple(indices))}


def unreadable_strict(form: str, data: ConfigDict) -> dict[str, str]:
    """The same where the function that Grain maps just raises."""
    with grain_stream.stream(form, data, strict=True) as batches:
        return {"error": until_error(batches), "then": until_error(batches)}


def saved_state(form: str, data: ConfigDict) -> dict[str, str]:
    """Grain's own state after three batches, given to iterators of the same and other numbers."""
    number = int(form.split()[2])
    with grain_stream.stream(form, data, START.value) as batches:
        for _ in range(3):
            next(batches)
        state = batches.get_state()
        wanted = digest(next(batches))
    came = {"state": str(state)[:200]}
    for other in (number, number + 1):
        with grain_stream.stream(f"{form[:-1]}{other}", data) as batches:
            try:
                batches.set_state(state)
                same = digest(next(batches)) == wanted
                came[f"with {other}"] = "exact" if same else "other samples, silently"
            except Exception as error:
                came[f"with {other}"] = f"{type(error).__name__}: {error}"
    return came


_ALL = (first, rates, killed_worker, killed_trainer, unreadable, unreadable_strict, saved_state)
TRIALS = {function.__name__: function for function in _ALL}


def run(form: str, trial: str, folder: pathlib.Path, start: int = 0) -> Any:
    """What a trial printed, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.grain_input", *sys.argv[1:], f"--form={form}"]
    command += [f"--trial={trial}", f"--start={start}", f"--config.data.source=folder:{folder}"]
    command += [f"--config.data.cache_dir={folder}.cache"]
    # Files, not pipes: of these a worker that outlives its trainer would hold the other end.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        try:
            subprocess.run(command, stdout=out, stderr=log, timeout=_LIMIT)
        except subprocess.TimeoutExpired:
            return f"hangs: not done after {_LIMIT} s"
        out.seek(0), log.seek(0)
        lines = out.readlines()
        return json.loads(lines[-1]) if lines else log.read()[-2000:]


def lives(pid: int) -> bool:
    """Whether a process is there, and not only its exit status."""
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def left(pids: list[int]) -> str:
    """How many processes outlive their trainer, and how long, if they end at all."""
    begin = time.monotonic()
    while any(map(lives, pids)) and time.monotonic() - begin < _PATIENCE:
        time.sleep(0.1)
    alive = list(filter(lives, pids))
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return f"{len(alive)} of {len(pids)} workers left after {time.monotonic() - begin:.1f} s"


def compare(folder: pathlib.Path) -> None:
    """Prints what Grain's forms cost, each run beside its peer, and the ratios of these pairs."""
    pairs = {form: [] for form in PAIRS}
    for form in list(PAIRS) * ROUNDS.value:
        pairs[form].append([run(one, "rates", folder) for one in (PAIRS[form], form)])
        logging.info("%s and its peer: %s", form, pairs[form][-1])
    for form, runs in pairs.items():
        for key in runs[0][0]:
            ratios = sorted(own[key] / peer[key] for peer, own in runs)
            peer, own = (statistics.median(pair[i][key] for pair in runs) for i in (0, 1))
            middle, low, high = statistics.median(ratios), ratios[0], ratios[-1]
            print(f"{form}: {own:.3g} {key}, {PAIRS[form]} {peer:.3g}", end="; ")
            print(f"ratio {middle:.2f} ({low:.2f} to {high:.2f})")


def starts(folder: pathlib.Path) -> None:
    """Prints whether samples are the same, also from a later step, and how soon they come."""
    wanted = run(FORMS[0], "first", folder)["digests"]
    for form in FORMS:
        begun, later, far = (run(form, "first", folder, start) for start in (0, 3, _FAR))
        equal = begun["digests"] == wanted, later["digests"][:3] == wanted[3:6]
        print(f"{form}: samples equal {equal[0]}, from step 3 {equal[1]}", end="; first batch ")
        print(f"after {begun['s']:.2f} s, of step {_FAR} {far['s']:.2f} ({far['digests'][0]})")


def main(argv: Sequence[str]) -> None:
    del argv
    if FORM.value:
        print(json.dumps(TRIALS[TRIAL.value](FORM.value, CONFIG.value.data)), flush=True)
        return
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root, "images")
        images.write_folder(folder, GENERATE.value or 500)
        compare(folder)
        starts(folder)
        for form in ("ours processes 2", "grain processes 2"):
            print(f"{form}, killed worker: {run(form, 'killed_worker', folder)}")
            print(f"{form}, killed trainer: {left(run(form, 'killed_trainer', folder))}")
        for path in sorted(folder.glob("*/*"))[:3]:
            path.write_bytes(path.read_bytes()[:5000])
        for form in FORMS:
            print(f"{form}, 3 unreadable images: {run(form, 'unreadable', folder)}")
        for form in ("grain threads 2", "grain processes 2"):
            print(f"{form}, saved state: {run(form, 'saved_state', folder)}")
            print(f"{form}, unreadable, no substitutes: {run(form, 'unreadable_strict', folder)}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
