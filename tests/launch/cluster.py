"""A SLURM cluster of this machine alone: slurmctld, slurmd and munged on the loopback interface."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
# The processes take part in the queue's time limits and signals as on any cluster; the GPUs are
# numbers only.
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=30
MpiDefault=none
ReturnToService=2
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in NEEDED if not shutil.which(name, path=search_path())]


def search_path() -> str:
    """Where Debian puts daemons, too."""
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Cluster:
    """The running cluster; `run` runs its commands."""

    def __init__(self, folder: pathlib.Path):
        """Starts the daemons, with all their files in `folder`."""
        self.folder = folder
        self.environment = os.environ | {
            "SLURM_CONF": f"{folder}/slurm.conf",
            "PATH": search_path(),
        }
        self._daemons: list[subprocess.Popen] = []
        self._configure()
        files = ("key-file=munge.key", "socket=munge.socket", "pid-file=munge.pid",
                 "log-file=munge.log", "seed-file=munge.seed")  # fmt: skip
        files = [f"--{option.replace('=', f'={folder}/')}" for option in files]
        self._start("munged", "--foreground", "--force", *files)
        wait_for((folder / "munge.socket").exists)
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", "localhost")
        wait_for(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%t"))

    def _configure(self) -> None:
        ports = [free_port(), free_port()]
        user = subprocess.check_output(["id", "-un"], text=True).strip()
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        text = CONFIG.format(folder=self.folder, ports=ports, user=user)
        (self.folder / "slurm.conf").write_text(text)
        for name in ("gpu0", "gpu1"):
            (self.folder / name).touch()
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o600)

    def _start(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}.out", "wb") as out:
            self._daemons.append(subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True,
            ))  # fmt: skip

    def run(self, *command: str) -> str:
        """What a command prints; commands that fail print nothing of interest here."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    def job(self, number: str) -> dict[str, str]:
        """What scontrol knows of a job: JobState, Restarts, ExitCode ..."""
        text = self.run("scontrol", "show", "job", number, "--oneliner")
        return dict(part.split("=", 1) for part in text.split() if "=" in part)

    def close(self) -> None:
        """Ends all jobs and daemons."""
        self.run("scancel", "--signal=KILL", "--full", "--user", str(os.getuid()))
        self.run("scancel", "--user", str(os.getuid()))
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()


def free_port() -> int:
    """A port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(condition, seconds: float = 120.0, explain=lambda: "") -> None:
    """Waits until a condition holds; AssertionError with an explanation where it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.2)
