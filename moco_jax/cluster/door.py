"""The port of process 0, where the run's processes come in and strangers stay out."""

import collections
import functools
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable

from moco_jax.cluster.hello import Hello, admit
from moco_jax.errors import InputError

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds for a connection to be made and to say who it is
_WAITING = 64  # connections that have not said who they are; the oldest makes room for a new one
# 30 s in all. The last, in milliseconds, holds where something was sent: then TCP asks nothing, and
# sends it again for a quarter of an hour.
_KEEP_ALIVE = {
    "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000,
}  # fmt: skip


class Door:
    """Listens, and hands over each connection that proves to be of the run."""

    def __init__(
        self,
        address: tuple[str, int],
        token: bytes,
        enter: Callable[[socket.socket, Hello], None],
    ):
        """Opens the port.

        Args:
          address: host and port; see `listening_host`.
          token: of the run.
          enter: called in a thread of its own.

        Raises:
          InputError: the port is taken.
        """
        self._token, self._enter = token, enter
        self._waiting: collections.deque[socket.socket] = collections.deque()
        self._lock = threading.Lock()
        self._server = _listen_on(address)
        threading.Thread(target=self._accept, name="door", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
                keep_alive(connection)
            except OSError:  # gone already, or too many open files
                time.sleep(0.05)
                continue
            with self._lock:
                if len(self._waiting) >= _WAITING:
                    _hang_up(self._waiting.popleft())
                self._waiting.append(connection)
            threading.Thread(target=self._ask, args=[connection], daemon=True).start()

    def _ask(self, connection: socket.socket) -> None:
        hello = admit(connection, self._token, PATIENCE)
        with self._lock:
            if connection in self._waiting:
                self._waiting.remove(connection)
            else:
                hello = None  # it was too slow in a crowd
        if hello:
            self._enter(connection, hello)
        else:
            connection.close()


@functools.cache
def listening_host(host: str) -> str:
    """Where process 0 listens: its own address that the others know, or "" for all of them.

    All, where the name is not of this machine (behind a translation of addresses, in a container),
    or leads this machine alone to itself, as /etc/hosts may have it.
    """
    try:
        found = [info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError:
        found = []
    for address in found:
        if ipaddress.ip_address(address).is_loopback and not _names_loopback(host):
            continue
        try:
            with socket.create_server((address, 0), family=_family(address)):
                return address
        except OSError:
            continue
    log.info("%s is no address of this machine: process 0 listens on all that it has", host)
    return ""


def _names_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _listen_on(address: tuple[str, int]) -> socket.socket:
    host, port = listening_host(address[0]), address[1]
    try:
        if not host and socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server((host, port), family=_family(host), backlog=_WAITING)
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen on port {port} ({error.strerror}): does another process 0 "
            f"run here? Another coordinator port may be free."
        ) from error


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
    except OSError:
        connection.close()


def keep_alive(connection: socket.socket) -> None:
    """Has TCP ask a silent other end whether it is there, and break the connection if not.

    Messages are short and go at once.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
