"""Lets torchvision be imported where its compiled part is missing or does not fit torch.

Its Python part registers rules for operators that the compiled part declares. Importing this
module declares them, without an implementation: no test calls one.
"""

import importlib.util
import pathlib

import torch

OPERATORS = ("nms", "qnms")


def _loads() -> bool:
    package = pathlib.Path(importlib.util.find_spec("torchvision").origin).parent
    for path in package.glob("_C*"):
        try:
            torch.ops.load_library(path)
        except OSError:
            continue
        return True
    return False


# Kept in a name: the declarations live as long as the library object.
LIBRARY = None if _loads() else torch.library.Library("torchvision", "DEF")
if LIBRARY:
    for name in OPERATORS:
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
