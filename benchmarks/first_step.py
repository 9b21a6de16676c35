"""Seconds from the command to the first step, with an empty and with a full compilation cache.

    python -m benchmarks.first_step --config=configs/demo.py
    python -m benchmarks.first_step --config=configs/v3_vit.py:s16 --generate=64 \
        -- --config.data.batch_size=16 --config.data.eval_batch_size=16

The trainer runs as its users start it, evaluations before the first step included, and is stopped
after it. CPU seconds are the trainer's own up to then: on a shared machine they vary less than the
clock. Linux only.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks import images

_LIMIT = 3600  # seconds, after which a run counts as hung


def command(config: str, workdir: pathlib.Path, cache: pathlib.Path, options: list[str]) -> list:
    own = ["--config.log.every_steps=1", f"--config.compilation_cache={cache}"]
    start = [sys.executable, "-m", "moco_jax.main", f"--config={config}", f"--workdir={workdir}"]
    return [*start, *own, *options]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(config: str, cache: pathlib.Path, options: list[str]) -> dict[int, tuple]:
    """(wall, CPU) seconds until the rows of step 0, the evaluations, and of step 1 are written."""
    seen = {}
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w+") as log:
        rows, begin = pathlib.Path(folder) / "run/metrics.jsonl", time.monotonic()
        run = subprocess.Popen(
            command(config, rows.parent, cache, options), stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            while 1 not in seen:
                if run.poll() is not None or time.monotonic() - begin > _LIMIT:
                    text = pathlib.Path(log.name).read_text()
                    raise SystemExit(f"no first step, exit code {run.poll()}:\n{text[-2000:]}")
                for line in rows.read_text().splitlines() if rows.exists() else ():
                    step = json.loads(line)["step"]
                    seen.setdefault(step, (time.monotonic() - begin, cpu_seconds(run.pid)))
                time.sleep(0.05)
            run.send_signal(signal.SIGTERM)
            run.wait()
        finally:
            run.kill()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--warm", type=int, default=2, help="runs with a full cache")
    parser.add_argument("--generate", type=int, default=0, help="train on so many made-up images")
    parser.add_argument("options", nargs="*", help="after --: for the trainer")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options, path = flags.options, pathlib.Path(folder)
        if flags.generate:
            images.write_folder(path / "images", flags.generate)
            options = [f"--config.data.source=folder:{path / 'images'}", *options]
        for name in ("cold", *["warm"] * flags.warm):
            seen = measure(flags.config, path / "cache", options)
            print(f"{name}: " + ", ".join(
                f"{what} after {seen[step][0]:.1f} s ({seen[step][1]:.1f} CPU s)"
                for step, what in ((0, "evaluated"), (1, "first step")) if step in seen
            ), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
