"""The Kubernetes files against the published schemas (make kubernetes)."""

import pathlib

import kubernetes_validate
import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
# podFailurePolicy is stable from 1.31 on.
VERSIONS = ("1.31", "1.34", kubernetes_validate.latest_version())


def objects():
    """Everything in the files that Kubernetes itself defines, by name."""
    found = {}
    for document in yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()):
        found[document["kind"]] = document
    jobset = yaml.safe_load((LAUNCH / "kubernetes_tpu.yaml").read_text())
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}}
    found["Job of the JobSet"] = job | replicated["template"]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["Service", "Job", "Job of the JobSet"])
def test_schema(name, version):
    kubernetes_validate.validate(objects()[name], version, strict=True)


def test_the_schema_knows_a_misspelled_field():
    job = objects()["Job"]
    job["spec"]["podFailurePolicies"] = job["spec"].pop("podFailurePolicy")
    with pytest.raises(kubernetes_validate.ValidationError, match="podFailurePolicies"):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
