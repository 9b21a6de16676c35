"""Two hosts on one machine: namespaces with a name, an address and a wire of their own."""

import contextlib
import os
import pathlib
import subprocess
import uuid

ADDRESSES = "10.213.7.1", "10.213.7.2"  # between the two alone; no other network sees them
NAMES = "near", "away"


def missing() -> str:
    """Why there can be none here; "" where there can."""
    if os.geteuid():
        return "only root may make network namespaces"
    command = ["unshare", "--net", "--uts", "--mount", "ip", "link", "add", "type", "veth"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        return f"no {error.filename}: on Debian, apt-get install iproute2 util-linux"
    except subprocess.CalledProcessError as error:
        return f"this machine makes no network namespaces: {error.stderr.strip()}"
    return ""


class Hosts:
    """What starts a command on each of the two, as `Run` takes it, and the wire between them."""

    def __init__(self, folder: pathlib.Path):
        """Makes them; `folder` takes the file that has their names."""
        unique = uuid.uuid4().hex[:8]
        self._spaces = [f"faults-{name}-{unique}" for name in NAMES]
        self._names = folder / "hosts"
        lines = [f"{a} {n}\n" for a, n in zip(ADDRESSES, NAMES, strict=True)]
        self._names.write_text("127.0.0.1 localhost\n" + "".join(lines))

    def __enter__(self):
        for space in self._spaces:
            ip("netns", "add", space)
        first, second = self._spaces
        ip("-n", first, "link", "add", "wire", "type", "veth", "peer", "wire", "netns", second)
        for space, address in zip(self._spaces, ADDRESSES, strict=True):
            ip("-n", space, "address", "add", f"{address}/24", "dev", "wire")
            for link in ("lo", "wire"):
                ip("-n", space, "link", "set", link, "up")
        return self

    def __exit__(self, *_):
        for space in self._spaces:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", space)

    def on(self, index: int) -> str:
        """Commands of bash after which "$@" runs on a host, in the same process."""
        inside = f'hostname {NAMES[index]}; mount --bind {self._names} /etc/hosts; exec "$@"'
        start = f"ip netns exec {self._spaces[index]} unshare --uts --mount bash -ec"
        return f"set -- {start} '{inside}' - \"$@\""

    def cut(self, index: int) -> None:
        """Takes the wire of a host away: what it sends or is sent is lost, and nobody is told."""
        ip("-n", self._spaces[index], "link", "set", "wire", "down")


def ip(*arguments: str) -> None:
    """Calls ip of iproute2."""
    subprocess.run(["ip", *arguments], check=True)
