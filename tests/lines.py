"""Ends of a line between processes, as threads of one process."""

import queue
import socket
import threading

from moco_jax.cluster.lifeline import Line


def free_address():
    """A port of this machine that is free."""
    with socket.create_server(("", 0)) as server:
        return "127.0.0.1", server.getsockname()[1]


class Ends(queue.SimpleQueue):
    """What ended, and how: (process, code, text)."""

    def of(self, index):
        return lambda code, text: self.put((index, code, text))

    def take(self, count):
        return {
            index: (code, text)
            for index, code, text in (self.get(timeout=10) for _ in range(count))
        }


def connect(address, count, ends, timeout=20.0):
    return [Line(address, count, i, timeout, ends.of(i)) for i in range(count)]


def exchange(lines, values):
    out = {}
    threads = [
        threading.Thread(
            target=lambda i, line: out.setdefault(i, line.exchange(values[i])), args=pair
        )
        for pair in enumerate(lines)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return out
