"""One run a workdir: a file that says who has it, kept fresh as long as its owner lives.

Made with O_EXCL, renewed in place and moved by rename, which NFS keeps atomic (flock it may not
know). A stale one never blocks: on this machine the owner's process tells, elsewhere a file that
nobody renews; its age is what this process has seen itself, so that clocks do not matter.

In a bucket it is made by a conditional request, of which one of several succeeds, but renewed and
taken over by plain ones: two that take over a stale one at the same moment both look once more
before they begin, and later the one that finds another's name there ends.
"""

import contextlib
import json
import logging
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from moco_jax.bucket import BucketPath, Place
from moco_jax.errors import EXIT_RESTART, InputError
from moco_jax.files import retrying

log = logging.getLogger(__name__)

FILE = "running.json"
BEAT = 5.0  # seconds between two renewals
LOST = 60.0  # seconds without one, after which the owner counts as gone; NFS may be late by 3
_RELEASE_SECONDS = 3.0
_SETTLE = 3.0  # in which a request that takes over a lock is answered
_held: list["_Lock"] = []


@contextlib.contextmanager
def held(workdir: Place, lost: Callable[[int, str], None]) -> Iterator[None]:
    """Within the context this run has `workdir` for itself.

    Args:
      workdir: an existing directory.
      lost: called with an exit code and a text when another run has taken it nevertheless, which
        happens to a process that was stopped for long.

    Raises:
      InputError: another run that lives has it; the message names its host and process.
      StorageError: the file cannot be written.
    """
    lock = (_BucketLock if isinstance(workdir, BucketPath) else _Lock)(workdir / FILE, lost)
    retrying(f"writing {lock.path}", lock.take)
    _held.append(lock)
    try:
        yield
    finally:
        release()


def release() -> None:
    """Gives back what this process holds, also on a sudden end; never waits for long."""
    while _held:
        lock = _held.pop()
        thread = threading.Thread(target=lock.give_back, daemon=True)
        thread.start()
        thread.join(_RELEASE_SECONDS)  # a file server that is away must not hold up the end


class _Lock:
    def __init__(self, path: Place, lost: Callable[[int, str], None]):
        self.path, self._lost = path, lost
        self._owner = {"host": socket.gethostname(), "token": secrets.token_hex(8)} | _identity()
        self._beats, self._over = 0, threading.Event()
        self._turn = threading.Lock()  # a renewal in progress would make again what is given back

    def take(self) -> None:
        while not self._make():
            found = _read(self.path)
            if found is None:
                continue  # its owner has just left
            self._demand_stale(found)
            self._move_away(found)
        threading.Thread(target=self._renew, name="lock", daemon=True).start()

    def give_back(self) -> None:
        self._over.set()
        with self._turn, contextlib.suppress(OSError):
            if self._is_mine():
                self.path.unlink()

    def _content(self) -> bytes:
        return json.dumps(self._owner | {"beats": f"{self._beats:012}"}).encode() + b"\n"

    def _make(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(handle, self._content())
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        return True

    def _demand_stale(self, found: bytes) -> None:
        """Returns once the owner is gone; InputError when it lives."""
        owner = _parsed(found)
        who, alive = _name(owner), _alive(owner)
        if alive is None:
            log.warning("%s was begun by %s: waiting up to %.0f s for a sign of life",
                        self.path, who, LOST)  # fmt: skip
            alive = self._changes(found)
            owner = _parsed(_read(self.path) or found)
        if alive:
            raise InputError(
                f"workdir={str(self.path.parent)!r} is in use: another run, {_name(owner)}, since "
                f"{owner.get('since', '?')}, trains there. Stop it first, or take another workdir."
            )
        log.warning("%s: its run, %s, is gone", self.path, who)

    def _changes(self, found: bytes) -> bool:
        end = time.monotonic() + LOST
        while time.monotonic() < end:
            time.sleep(min(1.0, LOST / 10))
            now = _read(self.path)
            if now != found:
                return now is not None
        return False

    def _move_away(self, found: bytes) -> None:
        """Removes the stale file, unless another process was quicker and has made its own."""
        aside = self.path.with_name(f"{FILE}.{self._owner['token']}")
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(aside)
            if aside.read_bytes() != found:
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self.path)
            aside.unlink()

    def _is_mine(self) -> bool:
        return _parsed(_read(self.path) or b"").get("token") == self._owner["token"]

    def _renew(self) -> None:
        while not self._over.wait(BEAT):
            try:
                with self._turn:
                    other = None if self._over.is_set() else self._beat()
            except OSError as error:  # a disk in trouble; training says so where it matters
                log.debug("%s was not renewed: %s", self.path, error)
                continue
            if other is not None:
                self._over.set()
                text = f"{_name(other)} has taken over {self.path.parent}: this run ends."
                self._lost(EXIT_RESTART, text)

    def _beat(self) -> dict[str, Any] | None:
        """Renews the file; where another run has taken it, its owner."""
        if not self.path.exists():
            self._make()  # deleted by hand
        if not self._is_mine():
            return _parsed(_read(self.path) or b"")
        self._beats += 1
        self._write()
        return None

    def _write(self) -> None:
        handle = os.open(self.path, os.O_WRONLY)
        try:
            os.write(handle, self._content())
        finally:
            os.close(handle)


class _BucketLock(_Lock):
    """The same as an object."""

    def take(self) -> None:
        self._again = False
        super().take()

    def _make(self) -> bool:
        try:
            self.path.create(self._content())
        except FileExistsError:
            if not self._is_mine():  # else the answer to a first request was lost
                return False
        if self._again:
            time.sleep(_SETTLE)
        return self._is_mine()

    def _move_away(self, found: bytes) -> None:
        if _read(self.path) == found:
            self.path.unlink(missing_ok=True)
        self._again = True

    def _write(self) -> None:
        self.path.write_bytes(self._content())


def _read(path: Place) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parsed(content: bytes) -> dict[str, Any]:
    """The owner that a lock's file names; {} where it is damaged."""
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"


def _identity() -> dict[str, Any]:
    """What tells this process from every other on this machine, before and after it."""
    return {
        "pid": os.getpid(),
        "machine": _machine(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


def _machine() -> str:
    """This boot of this machine, and its numbering of processes; "" where Linux does not tell."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, in ticks since the machine's start; "" where there is none."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if stat[0] == "Z" else stat[19]  # a zombie has ended


def _alive(owner: dict[str, Any]) -> bool | None:
    """Whether the owner of a lock lives; None where this machine cannot know."""
    machine, pid = owner.get("machine"), owner.get("pid")
    if not machine or machine != _machine() or not isinstance(pid, int):
        return None
    return bool(_started(pid)) and _started(pid) == owner.get("started")
