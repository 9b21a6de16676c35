"""Servers of this machine that speak the protocols of buckets, and a way to each."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest

from launch.local import free_port
from moco_jax.bucket import BucketPath
from tests.buckets.way import Way
from tests.faults import runs

SERVERS = {
    "s3": ("-m", "moto.server", "-p{port}"),
    "gs": ("-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", "--port={port}",
           "--in-memory", "--default-bucket=bucket"),
}  # fmt: skip


def variables(kind, port):
    """What points the clients at a server."""
    address = f"http://127.0.0.1:{port}"
    if kind == "gs":
        return {"STORAGE_EMULATOR_HOST": address}
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"} | dict.fromkeys(
        names, "x"
    )


@contextlib.contextmanager
def server(kind, log):
    """A server with an empty bucket named bucket; its port."""
    port = free_port()
    command = [sys.executable, *(part.format(port=port) for part in SERVERS[kind])]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            while True:
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield port
        finally:
            process.kill()


class Bucket:
    """A bucket, the way to it, and the variables of programs that use it."""

    def __init__(self, kind, port):
        self.kind, self.way = kind, Way(port)
        self.variables = variables(kind, self.way.port)

    def path(self, name):
        return BucketPath(f"{self.kind}://bucket/{name}")


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """A bucket of each kind; this process sees them too."""
    with contextlib.ExitStack() as stack:
        buckets = {}
        for kind in SERVERS:
            log = tmp_path_factory.mktemp(kind) / "log"
            buckets[kind] = Bucket(kind, stack.enter_context(server(kind, log)))
            os.environ.update(buckets[kind].variables)
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        yield buckets


@pytest.fixture(params=list(SERVERS))
def bucket(request, servers):
    yield servers[request.param]
    servers[request.param].way.state = "open"


@pytest.fixture
def s3(servers):
    yield servers["s3"]
    servers["s3"].way.state = "open"


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Images and a config of tiny runs."""
    return runs.write_home(tmp_path_factory.mktemp("buckets"))


@pytest.fixture(scope="session")
def undisturbed(home):
    """A local workdir of a run that nothing happened to."""
    runs.complete(home, home / "undisturbed")
    return home / "undisturbed"
