"""A run of several processes: where they find each other, and that all run the same thing."""

import difflib
import logging
import os
import secrets
import socket
import sys
import time
from typing import Any, NamedTuple

import jax

import moco_jax
from moco_jax import files
from moco_jax.bucket import Place as Path
from moco_jax.cluster import lock
from moco_jax.cluster.door import listening_host
from moco_jax.cluster.lifeline import Line
from moco_jax.cluster.switchboard import GONE
from moco_jax.config import ConfigDict, as_json, flat
from moco_jax.errors import InputError, StorageError

log = logging.getLogger(__name__)

# Stated, because JAX's default on Cloud TPU has changed between versions.
PORT = 8476
_VERDICT_SECONDS = 5.0
_SHARED_SECONDS = 90.0  # in which a new file shows on all hosts; NFS may remember 60 s


class Place(NamedTuple):
    """This process's place in the run.

    Attributes:
      coordinator: host:port of JAX's service, in process 0; the line is at the next port.
      count: of the processes.
      index: of this one.
      local: its number on this machine where the cluster tells, else None.
    """

    coordinator: str
    count: int
    index: int
    local: int | None = None

    @property
    def line(self) -> tuple[str, int]:
        """Host and port of the line between the processes."""
        host, port = self.coordinator.rsplit(":", 1)
        return host.strip("[]"), int(port) + 1

    @property
    def bind(self) -> str | None:
        """Where process 0's service of JAX listens; None: on all of its addresses."""
        host = listening_host(self.line[0])
        return f"{f'[{host}]' if ':' in host else host}:{self.line[1] - 1}" if host else None


def find_place(
    coordinator: str | None, count: int | None, index: int | None, timeout: int
) -> Place | None:
    """This process's place: as given, as the environment says, or as JAX detects it.

    JAX knows Cloud TPU, SLURM, Open MPI and Kubernetes; its variable JAX_COORDINATOR_PORT chooses
    the port there.

    Args:
      coordinator: host:port; default $JAX_COORDINATOR_ADDRESS.
      count: of the processes; default $JAX_NUM_PROCESSES. 1 leaves the cluster alone.
      index: of this one; default $JAX_PROCESS_ID.
      timeout: seconds that the detection may wait for names of hosts.

    Returns:
      None for a process of its own.

    Raises:
      InputError: the place is incomplete or impossible.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _number("num_processes", "JAX_NUM_PROCESSES", count)
    index = _number("process_id", "JAX_PROCESS_ID", index)
    local = None
    if count != 1 and None in (coordinator, count, index):
        coordinator, count, index, local = _detect(coordinator, count, index, timeout)
    if count == 1 or (coordinator, count, index) == (None, None, None):
        return None
    return _checked(coordinator, count, index, local)


def _number(name: str, variable: str, value: int | None) -> int | None:
    text = os.environ.get(variable)
    if value is None and text:
        try:
            return int(text)
        except ValueError:
            raise InputError(f"{name}: {variable}={text!r} is not a number") from None
    return value


def _detect(coordinator: str | None, count: int | None, index: int | None, timeout: int) -> tuple:
    from moco_jax.cluster.private_jax import ClusterEnv

    if "OMPI_MCA_orte_hnp_uri" not in os.environ:  # there JAX takes the job's number
        os.environ.setdefault("JAX_COORDINATOR_PORT", str(_port(os.environ.get("SLURM_JOB_ID"))))
    try:
        coordinator, count, index, locals_ = ClusterEnv.auto_detect_unset_distributed_params(
            coordinator, count, index, None, None, timeout
        )
    except (RuntimeError, OSError) as error:  # Kubernetes; Cloud TPU's metadata not reached
        raise InputError(
            f"The other processes of the run were not found: {error}\n"
            f"For a process of its own: --num_processes=1"
        ) from error
    return coordinator, count, index, locals_[0] if locals_ else None


def _port(job: str | None) -> int:
    """The coordinator's port; on SLURM a pair by job, so that jobs on a machine do not collide."""
    return 61440 + int(job) % 2048 * 2 if job else PORT


def _checked(coordinator: str | None, count: int | None, index: int | None, local: int | None):
    values = {"coordinator": coordinator, "num_processes": count, "process_id": index}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} missing: several processes need coordinator, num_processes "
            f"and process_id, of which there are {values}"
        )
    if not 0 <= index < count:
        raise InputError(f"process_id={index}: expected 0 to {count - 1} (num_processes={count})")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65535:
        raise InputError(f"coordinator={coordinator!r}: expected host:port, e.g. node1:{PORT}")
    return Place(coordinator, count, index, local)


def join(place: Place, config: ConfigDict, workdir: str, timeout: int) -> Line:
    """Meets the other processes of `place`, sees that all run the same, and starts JAX's service.

    A process that is missing after `timeout` seconds ends all, by name. JAX's own devices must
    not have been touched before.

    Returns:
      The line between the processes: end with `leave`.

    Raises:
      InputError: version, config or workdir differ, the same text on all processes.
      StorageError: the workdir cannot be written, and the machine is to blame.
    """
    log.info(
        "Process %d of %d; coordinator %s (JAX) and port %d",
        place.index, place.count, place.coordinator, place.line[1],
    )  # fmt: skip
    line = Line(place.line, place.count, place.index, timeout)
    try:
        everyone = line.exchange(_facts(config), "all to tell their config")
        check_same(everyone)
        _check_workdir(line, place.index, workdir, everyone)
    except (InputError, StorageError):
        line.close()
        raise
    jax.config.update("jax_enable_preemption_service", False)  # see moco_jax.cluster.stop
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=_local_devices(place, [facts["host"] for facts in everyone]),
        cluster_detection_method="deactivate",
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=int(2 * GONE),  # the line is first: JAX's service would abort
        coordinator_bind_address=place.bind if place.index == 0 else None,
    )
    log.info("All are here: %s", ", ".join(f"{i} on {f['host']}" for i, f in enumerate(everyone)))
    return line


def leave(line: Line, code: int, problem: str) -> None:
    """Ends a process of several: in order, or with a `problem` at once and with the others.

    A process that fails would wait at exit for those that wait for it in the next step: so `line`
    tells them exit code `code` and the problem.
    """
    if not problem:
        line.close()
        return
    line.fail(code, problem)
    lock.release()
    sys.stderr.flush()
    os._exit(code)


def explain(error: BaseException) -> str:
    """Logs an unexpected error of one process among several; returns its text for the others.

    Where another process died, this one's next step fails, but the line tells the true reason:
    it ends this process while we wait.
    """
    time.sleep(_VERDICT_SECONDS)
    log.error("%s", error, exc_info=error)
    return f"{type(error).__name__}: {error}"


def _facts(config: ConfigDict) -> dict[str, Any]:
    """What must not differ between processes, and where this one is."""
    return {
        "host": socket.gethostname(),
        "versions": [f"moco_jax = {moco_jax.__version__}", f"jax = {jax.__version__}"],
        "config": [f"{name} = {value!r}" for name, value in flat(as_json(config)).items()],
    }


def check_same(everyone: list[dict[str, Any]]) -> None:
    """Raises InputError, naming process and lines, when versions or config differ from process 0's.

    Args:
      everyone: by process, `host`, and lines of text under `versions` and `config`.
    """
    first = everyone[0]
    for index, facts in enumerate(everyone):
        for kind in ("versions", "config"):
            changes = difflib.unified_diff(
                first[kind], facts[kind], f"process 0 on {first['host']}",
                f"process {index} on {facts['host']}", n=0, lineterm="",
            )  # fmt: skip
            lines = [line for line in changes if not line.startswith("@@")]
            if lines:
                raise InputError("\n".join([f"The processes' {kind} differ:", *lines]))


def _check_workdir(line: Line, index: int, workdir: str, everyone: list[dict]) -> None:
    """Raises InputError, on all, unless all see a new file of process 0 in their workdir."""
    said = line.exchange([f".shared-{secrets.token_hex(8)}", _refusal(workdir)])
    if refusals := [refusal for _, refusal in said if refusal]:
        raise InputError(refusals[0])
    folder, name = files.workdir_path(workdir), said[0][0]
    problem = _make(folder / name) if index == 0 else ["", False]
    problem, may_pass = line.exchange(problem, "process 0 to write into the workdir")[0]
    if problem:
        raise (StorageError if may_pass else InputError)(problem)
    here = everyone[index]["host"] == everyone[0]["host"]
    found = _wait_for(folder / name, 1.0 if here else _SHARED_SECONDS)
    seen = line.exchange([found, str(folder)])
    if index == 0:
        (folder / name).unlink()
    lines = [
        f"  process {i} on {everyone[i]['host']}: {path}"
        for i, (found, path) in enumerate(seen)
        if not found
    ]
    if lines:
        raise InputError(
            f"The workdir must be the same for all processes, on a file system that they share, or "
            f"in a bucket. {seen[0][1]} of process 0 on {everyone[0]['host']} is not\n"
            + "\n".join(lines)
        )


def _refusal(workdir: str) -> str:
    """Why this workdir is none, if so."""
    try:
        files.workdir_path(workdir)
    except InputError as error:
        return str(error)
    return ""


def _make(path: Path) -> list[Any]:
    """Makes a file; returns what went wrong, and whether it may pass."""
    try:
        files.prepare_workdir(path.parent)
        path.write_bytes(b"")
    except (OSError, InputError) as error:
        return [str(error), files.is_trouble(error)]
    return ["", False]


def _wait_for(path: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _local_devices(place: Place, hosts: list[str]) -> list[int] | None:
    """The devices that this process takes; None: all that it sees, or $JAX_LOCAL_DEVICE_IDS.

    One each where a cluster started several processes on a machine, which then all see all GPUs;
    JAX alone would also take one for the only process of a machine with eight.
    """
    alone = hosts.count(hosts[place.index]) == 1
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if place.local is None or alone or (given and "," not in given):
        return None
    return [place.local]
