"""The tables of docs/scaling.md: plans of the ImageNet configs on TPU slices that are not there.

    python -m benchmarks.scaling --results=DIR [--only=REGEX]    # compiles what DIR lacks
    python -m benchmarks.scaling --results=DIR --table           # prints what DIR has

Needs the extra `tpu`. A row is one file in DIR and takes two to ten minutes of one core.
"""

import argparse
import dataclasses
import importlib
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import jax

from moco_jax.config import ConfigDict
from moco_jax.cost import absent
from moco_jax.cost.chips import CHIPS, absent_devices
from moco_jax.cost.estimate import Estimate, estimate
from moco_jax.cost.program import Program
from moco_jax.errors import DoesNotFitError

CONFIGS = ("v2_r50", "v3_r50:100", "v3_vit:s16", "v3_vit:b16", "v3_vit:l16", "v3_vit:h14")
SLICES = {
    "v4": ("2x2x2", "2x4x4", "4x4x8", "8x8x8"),
    "v5e": ("2x4", "4x8", "8x16", "16x16"),
    "v6e": ("2x4", "4x8", "8x16", "16x16"),
}
# Split parameters, and blocks in a loop (the compiler counts one turn), whose cheap values are
# computed again.
LARGE = ("v3_vit:l16", "v3_vit:h14")
WEAK = 32  # images a chip of the rows whose batch grows with the slice


@dataclasses.dataclass(frozen=True)
class Row:
    """A plan: a config on a slice, with its recipe's batch (0) or another one."""

    config: str
    topology: str
    batch: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        return re.sub(r"\W", "_", f"{self.config} {self.topology} {self.batch}")

    def options(self) -> ConfigDict:
        """The config."""
        module, _, argument = self.config.partition(":")
        get = importlib.import_module(f"configs.{module}").get_config
        c = get(argument) if argument else get()
        c.data.batch_size = self.batch or c.data.batch_size
        if self.config in LARGE:
            c.mesh.fsdp, c.model.vit.scan, c.model.remat = 8, True, "products"
        return c


def rows() -> Iterable[Row]:
    """All rows: first those whose batch grows with the slice."""
    for config in ("v3_vit:b16", "v2_r50"):
        for shape in SLICES["v4"]:
            yield Row(config, f"v4:{shape}", WEAK * chips(shape))
    for generation, shapes in SLICES.items():
        for shape in shapes:
            for config in CONFIGS:
                row = Row(config, f"{generation}:{shape}")
                if row.options().data.batch_size >= 8 * chips(shape):
                    yield row


def chips(shape: str) -> int:
    count = 1
    for side in shape.split("x"):
        count *= int(side)
    return count


def planned(row: Row) -> dict[str, Any]:
    """The row's estimate as JSON, or what the compiler says where it does not fit."""
    try:
        x = absent.build(row.options(), absent_devices(row.topology), None)
        e = estimate(x)
    except DoesNotFitError as error:
        return {"row": dataclasses.asdict(row), "error": str(error)}
    return {"row": dataclasses.asdict(row), **as_json(e)}


def as_json(e: Estimate) -> dict[str, Any]:
    return e._asdict() | {"chip": e.chip.name, "program": e.program._asdict()}


def from_json(found: dict[str, Any]) -> Estimate:
    chip = next(chip for chip in CHIPS if chip.name == found["chip"])
    fields = {name: found[name] for name in Estimate._fields}
    return Estimate(**fields | {"chip": chip, "program": Program(**found["program"])})


HEAD = (
    "config", "slice", "images a chip", "GB of", "TFLOP", "useful", "GB traffic", "all-reduce MB",
    "other MB", "bound ms", "MFU", "compiler ms", "MFU", "images/s", "hours",
)  # fmt: skip


def cells(found: dict[str, Any]) -> list[str]:
    """A line of the table; images/s and hours are those of the compiler's cycles."""
    row = Row(**found["row"])
    if "error" in found:
        needed = re.search(r"needs (\S+) of (\S+)", found["error"])
        text = "does not fit: {} of {}".format(*needed.groups()) if needed else "does not fit"
        return [row.config, row.topology, "", text, *[""] * (len(HEAD) - 4)]
    e, moved = from_json(found), dict(found["program"]["collectives"])
    which, bound = max(e.limits.items(), key=lambda item: item[1])
    summed = moved.pop("all-reduce", 0)
    return [
        row.config, row.topology, f"{e.batch / e.chips:g}",
        f"{e.memory / 1e9:.1f} of {e.chip.memory / 1e9:.0f}", f"{e.useful / 1e12:.3g}",
        "" if e.program.loops else f"{e.useful / e.program.operations:.1%}",
        "" if e.program.loops else f"{e.program.bytes / 1e9:.0f}",
        f"{summed / 1e6:.1f}", f"{sum(moved.values()) / 1e6:.1f}",
        f"{1e3 * bound:.1f} ({which})", f"{e.utilization(bound):.0%}", f"{1e3 * e.expected:.1f}",
        f"{e.utilization(e.expected):.0%}", f"{e.batch / e.expected:,.0f}",
        f"{e.hours(e.expected):.3g}",
    ]  # fmt: skip


def table(lines: Iterable[list[str]]) -> str:
    rows = [list(HEAD), ["---"] * len(HEAD), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=pathlib.Path, required=True, help="folder of the rows")
    parser.add_argument("--only", default="", help="regular expression of 'CONFIG TOPOLOGY BATCH'")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    flags = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    flags.results.mkdir(parents=True, exist_ok=True)
    done = []
    for row in rows():
        file = flags.results / f"{row.name}.json"
        wanted = re.search(flags.only, f"{row.config} {row.topology} {row.batch}")
        if wanted and not flags.table and not file.exists():
            file.write_text(json.dumps(planned(row), indent=1) + "\n")
            print(" | ".join(cells(json.loads(file.read_text()))), flush=True)
        if file.exists():
            done.append(json.loads(file.read_text()))
    print(table(map(cells, done)))


if __name__ == "__main__":
    main()
