"""What a report says first of a run: what came out, and what run it is."""

import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from moco_jax import signs
from moco_jax.metrics import duration
from moco_jax.report import noise, rundir
from moco_jax.report.rundir import Run

_FLOORS = {"untrained": "knn_top1", "raw pixels": "knn_top1_raw"}
_OF_SCENES = ("detection", "segmentation")  # protocols without views of one size


class Figure(NamedTuple):
    """A figure with its name and a remark; "" is none."""

    name: str
    value: str
    remark: str = ""


def summary(run: Run) -> list[Figure]:
    """What came out, in a few figures."""
    return [f for f in (*_accuracies(run), *_training(run)) if f]


def _accuracies(run: Run) -> Iterable[Figure]:
    knn = [row for row in run.rows if row.get("knn_top1") is not None]
    if knn:
        yield _knn(run, knn[-1]["knn_top1"])
    for result in {r["evaluation"]: r for r in run.results}.values():
        if "top1" in result["metrics"] and not (knn and result["evaluation"] == "knn"):
            top1, n = result["metrics"]["top1"], result["examples"]
            remark = f"{_between(top1, n)} of {result['split']}"
            yield Figure(f"{result['evaluation']} top-1", f"{top1:.1%}", remark)
    if ranks := [row["rank_me"] for row in run.rows if row.get("rank_me") is not None]:
        yield Figure("Effective rank", f"{ranks[-1]:.1f}", "directions that features use")


def _knn(run: Run, top1: float) -> Figure:
    start = run.rows[0] if run.rows[0]["step"] == 0 else {}
    n = rundir.examples(run, "knn")
    floors = []
    for name, column in _FLOORS.items():
        if (floor := start.get(column)) is not None:
            same = n and noise.within(top1, n, floor, n)
            floors.append(f"{name} {floor:.1%}" + " (within noise)" * bool(same))
    remark = [_between(top1, n)] if n else []
    return Figure("kNN top-1", f"{top1:.1%}", "; ".join(remark + floors))


def _between(top1: float, n: int) -> str:
    low, high = noise.wilson(top1, n)
    return f"95%: {100 * low:.1f} to {100 * high:.1f}"


def _training(run: Run) -> Iterable[Figure]:
    last, total = run.rows[-1] if run.rows else {"step": 0}, rundir.steps(run)
    losses = [row for row in run.rows if row.get("loss") is not None]
    if losses:
        chance = losses[-1].get("loss_chance")
        remark = f"chance {chance:.3f}" if chance is not None else ""
        yield Figure("Loss", f"{losses[-1]['loss']:.3f}", remark)
    remark = [f"of {total:,}"] if total else []
    remark += [f"{last['epoch']:.4g} epochs"] if last.get("epoch") else []
    yield Figure("Steps", f"{last['step']:,}", ", ".join(remark))
    if rates := [r["images_per_second"] for r in run.rows if r.get("images_per_second")]:
        yield Figure("Training time", duration(rundir.seconds(run)), "without evaluation")
        yield Figure("Images / s", f"{statistics.median(rates):,.0f}", "median")
    if last.get("skipped"):
        yield Figure("Skipped", f"{last['skipped']:,}", "steps not finite")
    for name, rows in signs.find(run.rows).items():
        title = signs.TITLES[name]
        yield Figure(f"{title[0].upper()}{title[1:]}", f"{len(rows)} x",
                     f"first at step {rows[0]['step']:,}")  # fmt: skip


def about(run: Run) -> dict[str, str]:
    """What run it is, by name; what an earlier version did not keep is left out."""
    found = {
        "Method": _method(run),
        "Backbone": _backbone(run.config.get("model", {})),
        "Data": _data(run),
        "Optimizer": _optimizer(run.config),
        "Hardware": _hardware(run.facts.get("hardware", {})),
        "Memory": _memory(run.facts.get("program", {})),
        "Compilation": _compilation(run.facts.get("program", {})),
        "Version": _version(run.facts.get("versions", {})),
        "Command": run.facts.get("command", ""),
    }
    return {name: text for name, text in found.items() if text}


def _method(run: Run) -> str:
    config, recipe = run.config, run.facts.get("recipe", "")
    name = config.get("method", {}).get("name", "")
    if config.get("protocol") == "supervised":
        whole = config.get("supervised", {}).get("train_backbone")
        name = "fine-tuning" if whole else "linear probe"
    if config.get("protocol") in _OF_SCENES:
        name = config["protocol"]
    begun = f"from {config['init']}" if config.get("init") else ""
    return ", ".join(filter(None, (name, recipe, begun)))


def _backbone(model: dict[str, Any]) -> str:
    name = model.get("name", "")
    if name.startswith("resnet") and "resnet" in model:
        width, stem = model["resnet"].get("width", 1), model["resnet"].get("stem")
        return f"{name}, {stem} stem" + f", width {width:g}" * (width != 1)
    if name.startswith("vit") and "vit" in model:
        return f"{name}, patches of {model['vit'].get('patch')} pixels"
    return name


def _data(run: Run) -> str:
    data, facts = run.config.get("data", {}), run.facts.get("data", {})
    parts = [data.get("source", "")]
    if (count := facts.get("images trained on")) is not None:
        parts.append(f"{count:,} images")
    if "image_size" in data and run.config.get("protocol") not in _OF_SCENES:
        parts.append(f"views of {data['image_size']} pixels")
    return ", ".join(filter(None, parts))


def _optimizer(config: dict[str, Any]) -> str:
    optim, batch = config.get("optim", {}), config.get("data", {}).get("batch_size")
    if batch is None or not {"name", "base_lr", "schedule"} <= optim.keys():
        return ""
    rate = optim["base_lr"] * batch / 256
    return (
        f"{optim['name']}, batch {batch:,}, learning rate {rate:.4g}, {optim['schedule']}, "
        f"{config['epochs']:g} epochs, seed {config['seed']}"
    )


def _hardware(hardware: dict[str, Any]) -> str:
    if "devices" not in hardware:
        return ""
    cores, processes = hardware.get("CPU cores of a host"), hardware.get("processes", 1)
    text = hardware["devices"] + f", {cores} CPU cores of a host" * bool(cores)
    return text + f", {processes} processes" * (processes > 1)


def _memory(program: dict[str, float]) -> str:
    parts = []
    if "temporary_bytes" in program:
        step, state = (program[f"{name}_bytes"] / 1e9 for name in ("temporary", "argument"))
        parts.append(f"{step:.2f} GB a device for a step, beside {state:.2f} GB of state and batch")
    for name in ("device", "process"):
        if most := program.get(f"peak_{name}_bytes"):
            parts.append(f"at most {most / 1e9:.2f} GB in the first {name}")
    return "; ".join(parts)


def _compilation(program: dict[str, float]) -> str:
    seconds = program.get("compile_seconds")
    return "" if seconds is None else f"{seconds:.0f} s for the step"


def _version(versions: dict[str, Any]) -> str:
    shown = ("moco_jax", "commit", "jax", "Python")
    return ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)
