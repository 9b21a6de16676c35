"""The page: what the template shows, made from runs."""

import base64
import functools
import io
import json
import pathlib
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image
from plotly.offline import get_plotlyjs

from moco_jax import config as options
from moco_jax.metrics import duration
from moco_jax.report import curves, featuremap, rundir
from moco_jax.report.rundir import Run

_HERE = pathlib.Path(__file__).parent
_SMALL = 64  # pixels; images up to this side stay as they are, larger ones become JPEG
_LARGEST = 224  # pixels of a picture in the page


def render(runs: Sequence[Run]) -> str:
    """The whole page as one HTML text; it refers to nothing outside itself."""
    groups = curves.groups(runs)
    charts = [{"id": f"chart{i}", "group": group} for i, group in enumerate(groups)]
    figures = {c["id"]: curves.figure(c["group"], runs) for c in charts}
    shown = [_shown(number, run, figures) for number, run in enumerate(runs)]
    return _template().render(
        title=", ".join(run.name for run in runs),
        runs=shown,
        charts=charts,
        differences=_differences(runs) if len(runs) > 1 else {},
        figures=figures,
        plotly_js=get_plotlyjs(),
        page_css=(_HERE / "page.css").read_text(),
        page_js=(_HERE / "page.js").read_text(),
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"value": _value, "breakable": _breakable, "flat": options.flat}
    return environment.get_template("page.html")


def _shown(number: int, run: Run, figures: dict[str, curves.Figure]) -> dict[str, Any]:
    """What the template shows of one run; adds the run's map to the figures."""
    feature_map, legend = None, []
    if "map" in run.pictures:
        feature_map = f"map{number}"
        figures[feature_map], legend = featuremap.figure(run.pictures)
    return {
        "name": run.name,
        "group": f"run{number}",
        "colour": curves.COLOURS[number % len(curves.COLOURS)],
        "outcome": rundir.outcome(run),
        "facts": run.facts,
        "summary": _summary(run),
        "changes": _changes(run.config),
        "options": options.flat(run.config),
        "results": run.results,
        "map": feature_map,
        "legend": legend,
        "images": len(run.pictures.get("map", ())),
        "split": str(run.pictures.get("split", "")),
        "views": [[data_uri(view) for view in image] for image in run.pictures.get("views", ())],
        "neighbours": _neighbours(run.pictures),
    }


def _summary(run: Run) -> list[tuple[str, str, str]]:
    """What came out, in a few figures: (name, value, remark)."""
    last = run.rows[-1] if run.rows else {"step": 0}
    total = rundir.steps(run)
    rates = [r["images_per_second"] for r in run.rows if r.get("images_per_second")]
    losses = [row for row in run.rows if row.get("loss") is not None]
    items = []
    if knn := [row for row in run.rows if row.get("knn_top1") is not None]:
        floors = {"before": "knn_top1", "raw pixels": "knn_top1_raw"}
        start = run.rows[0] if run.rows[0]["step"] == 0 else {}
        remark = [f"{n} {start[c]:.1%}" for n, c in floors.items() if start.get(c) is not None]
        items.append(("kNN top-1", f"{knn[-1]['knn_top1']:.1%}", ", ".join(remark)))
    for result in _newest_by_evaluation(run.results):
        if "top1" in result["metrics"] and not (knn and result["evaluation"] == "knn"):
            name = f"{result['evaluation']} top-1"
            items.append((name, f"{result['metrics']['top1']:.1%}", result["split"]))
    if losses:
        chance = losses[-1].get("loss_chance")
        remark = f"chance {chance:.3f}" if chance is not None else ""
        items.append(("Loss", f"{losses[-1]['loss']:.3f}", remark))
    remark = [f"of {total:,}"] if total else []
    remark += [f"{last['epoch']:.4g} epochs"] if last.get("epoch") else []
    items.append(("Steps", f"{last['step']:,}", ", ".join(remark)))
    if rates:
        items.append(("Training time", duration(rundir.seconds(run)), "without evaluation"))
        items.append(("Images / s", f"{statistics.median(rates):,.0f}", "median"))
    if last.get("skipped"):
        items.append(("Skipped", f"{last['skipped']:,}", "steps not finite"))
    return items


def _newest_by_evaluation(results: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    return {result["evaluation"]: result for result in results}.values()


def _changes(config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options that differ from the defaults: name -> (value, default)."""
    known = options.flat(options.as_json(options.default()))
    return {
        name: (value, known.get(name))
        for name, value in options.flat(config).items()
        if name not in known or value != known[name]
    }


def _differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Options that differ between the runs: name -> each run's value."""
    flat = [options.flat(run.config) for run in runs]
    names = sorted(set().union(*flat))
    columns = {name: [config.get(name) for config in flat] for name in names}
    return {name: values for name, values in columns.items() if values != values[:1] * len(runs)}


def _neighbours(pictures: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Queries with their neighbours; `right` is None where there are no labels."""
    if "queries" not in pictures:
        return []
    names = pictures["class_names"]

    def shown(image: np.ndarray, label: int, file: str) -> dict[str, Any]:
        name = featuremap.class_name(names, label)
        return {"src": data_uri(image), "name": name, "file": file}

    queries, others = pictures["queries"], pictures["neighbours"]
    # Pictures of earlier runs have no names.
    files = pictures.get("query_names", np.full(others.shape[:1], ""))
    other_files = pictures.get("neighbour_names", np.full(others.shape[:2], ""))

    out = []
    for q, truth in enumerate(pictures["query_labels"].tolist()):
        found = zip(
            others[q], pictures["neighbour_labels"][q].tolist(), other_files[q].tolist(),
            pictures["cosine"][q].tolist(),
        )  # fmt: skip
        out.append({
            "query": shown(queries[q], truth, str(files[q])),
            "found": [
                shown(image, label, file) | {
                    "cosine": cosine, "right": label == truth if truth >= 0 else None,
                }
                for image, label, file, cosine in found
            ],
        })  # fmt: skip
    return out


def data_uri(image: np.ndarray) -> str:
    """An image, uint8 (H, W, 3), as what <img src> takes: PNG where small, else JPEG."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    small = max(picture.size) <= _SMALL
    picture.thumbnail((_LARGEST, _LARGEST))
    picture.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 90}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _breakable(name: str) -> Markup:
    """A name that a line may break after a dot or an underscore."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def _value(value: Any) -> str:
    """A value as the tables show it; None is an option that there was not."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value)
