"""Where a process finds its place, and what the processes of a run must share."""

import os
import pathlib
from types import SimpleNamespace

import pytest
import yaml

from moco_jax import config
from moco_jax.cluster import rendezvous, switchboard
from moco_jax.cluster.rendezvous import Place, check_same, find_place

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SLURM = {
    "SLURM_JOB_ID": "4100", "SLURM_STEP_NODELIST": "node[07-09],other", "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "8192.0;tcp://10.0.0.1:34911", "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No cluster, whatever runs the tests; what is set here or by JAX's detection is undone."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMPI", "KUBE"))}
    monkeypatch.setattr(os, "environ", clean)
    return clean


def find(coordinator=None, count=None, index=None):
    return find_place(coordinator, count, index, 1)


class TestPlace:
    def test_a_process_of_its_own(self):
        assert find() is None

    def test_flags(self):
        place = find("node1:99", 4, 3)
        assert place == Place("node1:99", 4, 3)
        assert place.line == ("node1", 100)
        assert find("[::1]:99", 4, 3).line == ("::1", 100)

    def test_environment(self, environment):
        environment |= {"JAX_COORDINATOR_ADDRESS": "a:7", "JAX_NUM_PROCESSES": "2"}
        environment["JAX_PROCESS_ID"] = "1"
        assert find() == Place("a:7", 2, 1)
        assert find(index=0).index == 0, "a flag wins"

    def test_slurm(self, environment):
        environment |= SLURM
        assert find() == Place("node07:61448", 4, 3, 1)
        environment["SLURM_JOB_ID"] = "4101"
        assert find().coordinator == "node07:61448", "once chosen it stays"
        del environment["JAX_COORDINATOR_PORT"]
        assert find().coordinator == "node07:61450"

    def test_slurm_with_one_task_or_told_to_be_alone(self, environment):
        environment |= SLURM
        assert find(count=1) is None
        environment["SLURM_NTASKS"] = "1"
        assert find() is None

    def test_open_mpi(self, environment):
        environment |= OPEN_MPI
        assert find() == Place("10.0.0.1:61442", 2, 1, 0)

    def test_port_of_choice(self, environment):
        environment |= SLURM | {"JAX_COORDINATOR_PORT": "1234"}
        assert find().coordinator == "node07:1234"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (("node1:99", 4, None), "process_id missing"),
            ((None, 4, 0), "coordinator missing"),
            (("node1:99", 4, 4), r"process_id=4: expected 0 to 3 \(num_processes=4\)"),
            (("node1:99", 4, -1), "process_id=-1: expected 0 to 3"),
            (("node1", 4, 0), "coordinator='node1': expected host:port"),
            (("node1:99999", 4, 0), "coordinator='node1:99999': expected host:port"),
        ],
    )
    def test_what_is_incomplete_or_impossible(self, given, message):
        with pytest.raises(ValueError, match=message):
            find(*given)

    def test_a_variable_that_is_no_number(self, environment):
        environment["JAX_NUM_PROCESSES"] = "two"
        with pytest.raises(ValueError, match="JAX_NUM_PROCESSES='two' is not a number"):
            find()


def test_one_gpu_each_only_where_processes_share_a_machine(environment):
    share = rendezvous._local_devices
    place = Place("a:1", 4, 3, 1)
    assert share(place, ["a", "a", "b", "b"]) == [1]
    assert share(place, ["a", "b", "c", "d"]) is None, "the whole machine"
    assert share(place._replace(local=None), ["a", "a", "b", "b"]) is None, "flags: all, or JAX's"
    environment["CUDA_VISIBLE_DEVICES"] = "5"  # as srun --gpus-per-task=1 sets it
    assert share(place, ["a", "a", "b", "b"]) is None
    environment["CUDA_VISIBLE_DEVICES"] = "4,5"
    assert share(place, ["a", "a", "b", "b"]) == [1]


def test_the_line_ends_a_run_before_jaxs_service_aborts_it(monkeypatch):
    """After 100 s without a sign of life JAX would, with SIGABRT."""
    called = {}
    monkeypatch.setattr(
        rendezvous.jax.distributed, "initialize", lambda *_, **kw: called.update(kw)
    )
    monkeypatch.setattr(rendezvous.jax.config, "update", lambda *_: None)
    monkeypatch.setattr(
        rendezvous, "Line", lambda *_: SimpleNamespace(exchange=lambda value, _: [value])
    )
    monkeypatch.setattr(rendezvous, "_check_workdir", lambda *_: None)
    rendezvous.join(Place("127.0.0.1:99", 1, 0), config.default(), "run", 10)
    assert called["heartbeat_timeout_seconds"] >= switchboard.GONE + 60


def test_differences_name_process_host_and_lines():
    facts = {"host": "a", "versions": ["jax = 1"], "config": ["seed = 0", "epochs = 2.0"]}
    check_same([facts, facts | {"host": "b"}])
    with pytest.raises(ValueError, match=r"(?s)versions differ.*process 0 on a.*process 2 on c.*2"):
        check_same([facts, facts, facts | {"host": "c", "versions": ["jax = 2"]}])
    with pytest.raises(ValueError, match=r"(?s)config differ.*on b\n-epochs = 2.0\n\+epochs = 3.0"):
        check_same([facts, facts | {"host": "b", "config": ["seed = 0", "epochs = 3.0"]}])


def test_the_kubernetes_job_fits_the_flags_and_exit_codes():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    name = service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == name
    arguments = dict(a.removeprefix("--").split("=", 1) for a in pod["containers"][0]["args"])
    count = int(arguments["num_processes"])
    assert spec["completions"] == spec["parallelism"] == count
    place = find(arguments["coordinator"], count, count - 1)
    assert place.line == (f"{job['metadata']['name']}-0.{name}", rendezvous.PORT + 1)
    rules = {r["action"]: r["onExitCodes"] for r in spec["podFailurePolicy"]["rules"] if
             "onExitCodes" in r}  # fmt: skip
    assert 2 in rules["FailJob"]["values"]
    assert rules["Ignore"]["values"] == [75]
    assert pod["restartPolicy"] == "Never", "a policy for failures demands it"
