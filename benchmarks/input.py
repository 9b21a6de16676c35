"""The input pipeline: images a second, where the time goes, and what limits it.

    python -m benchmarks.input --config=configs/v2_r50.py --config.data.source=folder:PATH
    python -m benchmarks.input --config=configs/v2_r50.py --generate=1000 --peer

The second form makes its own files (500 x 375 JPEG, the same in array_record) and measures
torchvision's recipe on them in the same run. Times of single parts are CPU time of one thread,
the best of several rounds in turn: on a shared machine they vary less than the clock's.
"""

import itertools
import logging
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from unittest import mock

import cv2
import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from benchmarks import images
from moco_jax import mesh as meshes
from moco_jax.data import decoding, host_crop, loader, pipeline, transfer, workers
from moco_jax.data.host_crop import Region
from moco_jax.data.source import EncodedSource

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment whose data is read.")
GENERATE = flags.DEFINE_integer("generate", 0, "Images to generate and measure; 0: the config's.")
PEER = flags.DEFINE_bool("peer", False, "Also torchvision's recipe, where PyTorch is installed.")
ROUNDS = flags.DEFINE_integer("rounds", 8, "Of the parts; the best of them counts.")
MEMORY = flags.DEFINE_integer("memory", 0, "Images over which the memory is watched; 0: not.")

_SAMPLE = 100  # images of a round
_MODEL = (16, 48, 112)  # cores
Jobs = dict[str, Callable[[int], object]]


def best_times(jobs: Jobs) -> dict[str, float]:
    """CPU seconds of one call of each job, the jobs in turn, the best round of each."""
    times = {name: [] for name in jobs}
    for _ in range(ROUNDS.value):
        for name, job in jobs.items():
            begin = time.thread_time()
            for i in range(_SAMPLE):
                job(i)
            times[name].append((time.thread_time() - begin) / _SAMPLE)
    return {name: min(values) for name, values in times.items()}


def sample(source: EncodedSource) -> list[int]:
    """Indices of a round's images; a smaller source is gone through again."""
    return np.resize(pipeline.evenly(len(source), _SAMPLE), _SAMPLE).tolist()


def parts(source: EncodedSource, data: ConfigDict, peer: Jobs) -> dict[str, float]:
    """CPU seconds for an image: the whole, its parts, what runs in the interpreter alone, a peer.

    Args:
      source: Its images.
      data: `config.data`.
      peer: Other jobs to measure in turn with ours.
    """
    index = sample(source)
    encoded = [source.read(i)[0] for i in index]
    regions = [Region(view.crop_area, view.crop_ratio) for view in (data.view1, data.view2)]
    out = np.empty((2, data.image_size, data.image_size, 3), np.uint8)
    load = loader.views_loader(source, 0, regions, data.max_pixels)

    def views(i: int) -> None:
        header = decoding.read_header(encoded[i], data.max_pixels)
        host_crop.random_views(encoded[i], header, host_crop.generator(0, 0, i), regions, out)

    times = best_times(
        {
            "whole": lambda i: load(index[i], 0, out),
            "read": lambda i: source.read(index[i]),
            "decode": lambda i: decoding.decode(encoded[i]),
            "decode and crop": views,
        }
        | peer,
    )
    times["crop"] = times.pop("decode and crop") - times["decode"]
    decoded = itertools.cycle([decoding.decode(content) for content in encoded])

    def known(*_: object) -> np.ndarray:
        return next(decoded)

    def nothing(*_: object, **__: object) -> None:
        return None

    with (
        mock.patch.object(cv2, "imdecode", known),
        mock.patch.object(cv2, "sepFilter2D", nothing),
        mock.patch.object(cv2, "resize", nothing),
    ):
        times |= best_times({"interpreter": views})
    return times


def transfer_time(data: ConfigDict) -> float:
    """CPU seconds for an image's way onto the devices, this thread's part."""
    shape = (2, data.batch_size, data.image_size, data.image_size, 3)
    batch = {"crops": tuple(np.zeros(shape, np.uint8))}
    put = partial(transfer.put, meshes.batched(meshes.make_mesh()))
    times = []
    for _ in range(ROUNDS.value):
        begin = time.thread_time()
        put(batch)
        times.append((time.thread_time() - begin) / data.batch_size)
    return min(times)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pids: Iterable[int]) -> float:
    """Memory of processes in GB, what they share counted once."""
    total = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            total += int(line.split()[1]) if line.startswith("Pss:") else 0
    return total / 1e6


def children() -> list[int]:
    """This process's workers."""
    return [child.pid for child in multiprocessing.active_children()]


def stream(
    source: EncodedSource,
    data: ConfigDict,
    threads: int,
    processes: int,
    count: int,
    watch: bool = False,
) -> tuple[float, float, float, list[float]]:
    """Runs the pipeline for about `count` images, up to where a batch would be sent.

    Returns:
      Images a second, images a CPU second of all processes, CPU seconds an image in the
      trainer's process, and memory in GB at each tenth where `watch` asks for it.
    """
    data = ConfigDict(data.to_dict() | {"threads": threads, "processes": processes})
    steps = max(4, count // data.batch_size)
    watched = []
    with pipeline.train_batches(source, data, 0, put=lambda batch: batch) as batches:
        for _ in range(3 + data.prefetch):  # what was ready ahead of the clock
            next(batches)
        pids = [os.getpid(), *children()]
        begin, used = time.monotonic(), {pid: cpu_seconds(pid) for pid in pids}
        for step in range(steps):
            next(batches)
            if step % max(1, steps // 10) == 0:
                watched.append(memory(pids) if watch else 0.0)
        wall = time.monotonic() - begin
        used = {pid: cpu_seconds(pid) - before for pid, before in used.items()}
    seen = steps * data.batch_size
    return seen / wall, seen / sum(used.values()), used[os.getpid()] / seen, watched


def peer_jobs(source: EncodedSource) -> Jobs:
    """The recipe of torchvision, its crops alone and PIL's decoding, of a folder's images."""
    from benchmarks import torchvision_recipe as peer

    paths = [source.item_name(i) for i in sample(source)]
    jobs = {"recipe": peer.two_views, "crops": peer.two_crops, "PIL decode": peer.load}
    return {f"torchvision {name}": lambda i, f=f: f(paths[i]) for name, f in jobs.items()}


def show_parts(name: str, times: dict[str, float], sent: float) -> None:
    rate, bare = 1 / times["whole"], 1 / times["decode"]
    print(
        f"{name}: {rate:.0f} two-view images/s per core; bare decode {bare:.0f}: {rate / bare:.0%}"
    )
    shown = {key: times[key] for key in ("read", "decode", "crop")} | {"transfer": sent}
    print("  us an image: " + ", ".join(f"{key} {1e6 * t:.0f}" for key, t in shown.items()))
    print(f"  of it in the interpreter {1e6 * times['interpreter']:.0f}")


def show_model(times: dict[str, float], host: float) -> None:
    """Prints what more cores would give, from what one gave."""
    lock, image, host = times["interpreter"], times["whole"], max(host, 1e-6)
    print(f"one interpreter feeds at most {1 / lock:.0f} images/s; {image / lock:.0f} threads")
    print(
        f"the trainer's process needs {1e6 * host:.0f} us an image: at most {1 / host:.0f} images/s"
    )
    for cores in _MODEL:
        _, processes = workers.layout(cores, 0)
        rate = min(cores / (image + host), 1 / host)
        print(f"model, {cores} cores ({processes} processes): {rate:.0f} images/s")


def measure(source: EncodedSource, data: ConfigDict, peer: Jobs) -> None:
    times = parts(source, data, peer)
    show_parts(source.name, times, transfer_time(data))
    for name in peer:
        print(f"{name}: {1 / times[name]:.0f}; ours is {times[name] / times['whole']:.1f} times it")
    cores, host = workers.cores(), []
    layouts = sorted({(1, 1), (cores, 1), (cores, cores)})
    results = {layout: [] for layout in layouts}
    for _ in range(3):
        for layout in layouts:
            result = stream(source, data, *layout, count=10 * data.batch_size)
            results[layout].append(result)
            if layout[1] > 1:
                host.append(result[2])
    for (threads, processes), runs in results.items():
        wall, cpu = (max(run[i] for run in runs) for i in (0, 1))
        middle = statistics.median(run[1] for run in runs)
        print(
            f"{threads} threads in {processes} process(es): {wall:.0f} images/s, {cpu:.0f} a CPU "
            f"second (median {middle:.0f})"
        )
    if host:
        show_model(times, min(host))


def watch_memory(source: EncodedSource, data: ConfigDict) -> None:
    for processes in (1, 2):
        *_, watched = stream(source, data, workers.cores(), processes, MEMORY.value, True)
        shown = ", ".join(f"{gb:.2f}" for gb in watched)
        print(f"memory over {MEMORY.value} images, {processes} process(es), GB: {shown}")


def main(argv: Sequence[str]) -> None:
    del argv
    logging.basicConfig(level=logging.WARNING)
    data = CONFIG.value.data
    print(f"{workers.cores()} cores, jax {jax.__version__}, OpenCV {cv2.__version__}")
    if not GENERATE.value:
        measure(pipeline.open_data(data).train, data, {})
        return
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        manual = root / "downloads" / "manual"
        images.write_folder(manual, GENERATE.value)
        os.environ["TFDS_DATA_DIR"] = str(root)
        for spec in (f"folder:{manual}", "tfds:benchmark_images"):
            data.update(source=spec, cache_dir=str(root / "cache"))
            source = pipeline.open_data(data).train
            with_peer = PEER.value and spec.startswith("folder")
            measure(source, data, peer_jobs(source) if with_peer else {})
        if MEMORY.value:
            watch_memory(source, data)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
