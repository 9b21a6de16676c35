"""Metrics to Weights & Biases, by a thread of its own: a network that hangs delays no run."""

import json
import logging
import queue
import secrets
import threading
from typing import Any

from moco_jax import files
from moco_jax.bucket import BucketPath, Place
from moco_jax.extras import extra

log = logging.getLogger(__name__)

ID = "wandb.id"  # in the workdir: the run there that a run here goes on with
END_SECONDS = 20.0  # that the end of a run may wait for what is not sent yet
_ROWS = 10_000  # kept until they are sent; more are left out


class Run:
    """A run at W&B, or of its files with WANDB_MODE=offline; trouble is said, once."""

    def __init__(self, project: str, workdir: Place):
        """Begins, or goes on with, the run whose id `workdir` keeps.

        Raises:
          InputError: the library is not installed.
          StorageError: the id cannot be written.
        """
        with extra("wandb", "log.wandb"):
            import wandb
        self._library, self._project, self._workdir = wandb, project, workdir
        if not (identity := files.read(workdir / ID, missing=b"").decode().strip()):
            identity = secrets.token_hex(8)
            files.write(workdir / ID, f"{identity}\n")
        self._rows: queue.Queue = queue.Queue(_ROWS)
        self._ended = False
        self._thread = threading.Thread(target=self._work, args=(identity,), name="W&B")
        self._thread.daemon = True
        self._thread.start()

    def write(self, row: dict[str, Any]) -> None:
        """Hands over a row of metrics, its 'step' among them; returns at once."""
        if self._ended:
            return
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._give_up(f"{_ROWS} rows wait to be sent")

    def close(self) -> None:
        """Ends the run there, and waits for that, but not long."""
        if self._ended:
            return
        self.write(None)
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            self._give_up(f"what is left was not sent in {END_SECONDS:.0f} s")

    def _give_up(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            log.warning("Nothing more for W&B: %s; metrics.jsonl has all", why)

    def _work(self, identity: str) -> None:
        try:
            run = self._library.init(**self._arguments(identity))
            # Rows that are written again after a restart take their place by their step.
            run.define_metric("*", step_metric="step")
            where = "offline" if run.offline else run.url
            log.info("W&B: run %s of %s: %s", identity, self._project, where)
            while not self._ended and (row := self._rows.get()) is not None:
                run.log(row)
            run.finish()
        except Exception as error:  # a service's trouble has many kinds
            self._give_up(" ".join(f"{type(error).__name__}: {error}".split()))

    def _arguments(self, identity: str) -> dict[str, Any]:
        here = {} if isinstance(self._workdir, BucketPath) else {"dir": str(self._workdir)}
        # Silent, it neither asks for a key nor writes over the progress line.
        settings = self._library.Settings(silent=True, console="off")
        config = json.loads(files.read(self._workdir / "config.json", missing=b"{}"))
        return here | {
            "project": self._project, "id": identity, "name": self._workdir.name,
            "resume": "allow", "config": config, "settings": settings,
        }  # fmt: skip
