"""Tiny runs end as they did when `tests/golden.json` was written, whatever has moved since.

One device of eight, XLA at its lowest level of optimization. 1e-4 of a loss, over 20 steps: another
processor adds in another order; on the same one the values are equal to the bit, which
`python -m tests.golden` shows.
"""

import json
import pathlib

import numpy as np
import pytest

from tests import golden

VALUES = json.loads((pathlib.Path(golden.__file__).parent / "golden.json").read_text())


@pytest.mark.parametrize("name", golden.CONFIGS)
def test_losses_of_twenty_steps(name, tmp_path):
    np.testing.assert_allclose(golden.measure(name, tmp_path)["losses"], VALUES[name], rtol=1e-4)
