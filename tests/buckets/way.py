"""The way to a server, which can be slow, broken or cut."""

import contextlib
import socket
import threading
import time

ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Way:
    """Passes on connections to a port; `state` says how, and a change ends those there are.

    States: 'open'; 'slow': half a second for each piece of data; 'failing': each request is
    answered with 500; 'gone': no connection is taken, as if nobody listened.
    """

    def __init__(self, port):
        self._target, self._connections = port, set()
        self._listen(0)
        self.port = self._server.getsockname()[1]
        self._state = "open"

    @property
    def state(self):
        return self._state

    @state.setter
    def state(self, state):
        before, self._state = self._state, state
        if state == "gone":
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if before == "gone" != state:
            self._listen(self.port)

    def _listen(self, port):
        self._server = socket.socket()
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server.bind(("127.0.0.1", port))
        self._server.listen(64)
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, near):
        self._connections.add(near)
        with contextlib.suppress(OSError), near:
            if self._state == "failing":
                near.recv(1 << 16)
                near.sendall(ERROR)
                time.sleep(0.1)
            elif self._state != "gone":
                with socket.create_connection(("127.0.0.1", self._target)) as far:
                    self._connections.add(far)
                    answers = threading.Thread(target=self._pass, args=(far, near), daemon=True)
                    answers.start()
                    self._pass(near, far)
                    answers.join()
                    self._connections.discard(far)
        self._connections.discard(near)

    def _pass(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 20):
                if self._state == "slow":
                    time.sleep(0.5)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
