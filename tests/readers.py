"""Ways to read a source, for worker processes: they import this module, and nothing of pytest."""

import sys
import time


class Broken:
    """Calls that fail, or take long, for some indices; others are read as the source has it."""

    def __init__(self, source, bad, what):
        self.source, self.bad, self.what = source, bad, what

    def __call__(self, index):
        if index not in self.bad:
            return self.source.read(index)
        if self.what == "bug":
            raise TypeError("a bug")
        if self.what == "slow":
            time.sleep(60)
        return b"not an image", 0


def name(index):
    return f"picture {index}"


class Modules:
    """Gives as label whether the reading process has loaded a module."""

    def __init__(self, source, module):
        self.source, self.module = source, module

    def __call__(self, index):
        return self.source.read(index)[0], int(self.module in sys.modules)
