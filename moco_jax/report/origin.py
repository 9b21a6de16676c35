"""Where a run comes from: its command line and commit; what its step needs, and what was used."""

import functools
import pathlib
import resource
import shlex
import subprocess
import sys
from typing import Any, NamedTuple

import jax

_PACKAGE = pathlib.Path(__file__).parents[1]
_GIT_SECONDS = 5.0


class Compiled(NamedTuple):
    """The compiled step.

    Attributes:
      seconds: that compiling took.
      temporary: bytes on a device while it runs, beside its arguments.
      arguments: bytes on a device of state and batch.
    """

    seconds: float
    temporary: int
    arguments: int


def command_line() -> str:
    """The command of this process, as a shell takes it; of Python its name alone."""
    program, *rest = sys.orig_argv or [""]
    return shlex.join([pathlib.PurePath(program).name, *rest])


@functools.cache  # what runs is what was there at the start
def commit() -> str:
    """The commit of the checkout that the package lies in; "" where it lies in none.

    It ends in '+' where files that git knows were changed since.
    """
    root = _PACKAGE.parent
    if not (root / ".git").exists():  # installed: a repository further up is another's
        return ""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + "+" * bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS, cwd="/"
    )
    return done.stdout.strip()


def program(compiled: Compiled | None) -> dict[str, float]:
    """What the step needs, and the most that was used so far: seconds and bytes by name."""
    used = jax.local_devices()[0].memory_stats() or {}
    kilobyte = 1 if sys.platform == "darwin" else 1024
    found = {"peak_process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte}
    if peak := used.get("peak_bytes_in_use"):
        found["peak_device_bytes"] = peak
    if compiled:
        found["compile_seconds"] = round(compiled.seconds, 1)
        found["temporary_bytes"] = compiled.temporary
        found["argument_bytes"] = compiled.arguments
    return found


def joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What two processes say of the program of one run: the larger of what each used.

    Args:
      before: what the process before has said.
      now: what this one says.
    """
    both = before | now
    for name in before.keys() & now.keys():
        if name.startswith("peak_"):
            both[name] = max(before[name], now[name])
    return both
