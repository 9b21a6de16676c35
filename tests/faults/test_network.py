"""A host that is lost: its network goes, and nothing tells the others but its silence."""

import json

import pytest

from tests.faults import hosts
from tests.faults.runs import STEP, Run, saved, two

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(bool(reason := hosts.missing()), reason=reason),
]
SOON = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 5000}


def test_a_host_that_is_lost_is_named_and_ends_all(home, pair, tmp_path):
    flags = (f"--coordinator={hosts.ADDRESSES[0]}:8476", "--num_processes=2")
    both = {"gate": f"{STEP}#8", "set": json.dumps({"moco_jax.cluster.door:_KEEP_ALIVE": SOON})}
    with (
        hosts.Hosts(tmp_path) as there,
        Run(home, tmp_path / "run", *flags, "--process_id=0", limit=there.on(0), **both) as zero,
        Run(home, tmp_path / "run", *flags, "--process_id=1", limit=there.on(1), **both) as one,
    ):
        zero.at_gate(), one.at_gate()
        there.cut(1)
        zero.go(), one.go()
        texts = zero.end(75), one.end(75)
    assert "All are here: 0 on near, 1 on away" in texts[0]
    assert "Process 1 on away died; the same command resumes." in texts[0]
    assert f"Process 0 at {hosts.ADDRESSES[0]} died; the same command resumes." in texts[1]
    with two(home, tmp_path / "run") as (zero, one, _):
        zero.end(0), one.end(0)
    assert saved(tmp_path / "run") == saved(pair)
