"""The page: what the template shows, made from runs."""

import functools
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from moco_jax import config as options
from moco_jax.report import (
    applies,
    curves,
    derived,
    detected,
    featuremap,
    gallery,
    header,
    perclass,
    ranking,
    rundir,
    steady,
    thumbnails,
    votes,
)
from moco_jax.report.datauri import data_uri, jpeg_uri
from moco_jax.report.rundir import Run

_HERE = pathlib.Path(__file__).parent
_SECTIONS = {
    "curves": "Curves", "results": "Evaluations", "detections": "Detections",
    "classes": "Classes", "maps": "Map of features", "neighbours": "Nearest neighbours",
    "views": "Views", "recipe": "Recipe", "versions": "Data, hardware, versions",
}  # fmt: skip


class Unit(NamedTuple):
    """A unit of time."""

    name: str
    seconds: int


_UNITS = (Unit("hours", 3600), Unit("minutes", 60))


def render(runs: Sequence[Run]) -> str:
    """The whole page as one HTML text; it refers to nothing outside itself."""
    runs = [derived.with_columns(run) for run in runs]
    drawn, sentences = steady.parted(curves.groups(runs), runs)
    charts = [
        {"id": f"chart{i}", "group": group, "curves": curves.present(group, runs)}
        for i, group in enumerate(drawn)
    ]
    figures = {c["id"]: curves.figure(c["group"], runs) for c in charts}
    shown = [_shown(number, run, figures) for number, run in enumerate(runs)]
    several = len(runs) > 1
    return _template().render(
        title=", ".join(run.name for run in runs),
        runs=shown,
        alone=not several,
        contents=_contents(shown, bool(charts or sentences)),
        ranking=ranking.table(runs) if several else None,
        side_by_side=gallery.side_by_side(runs),
        charts=charts,
        steady=sentences,
        unit=_unit(runs),
        differences=applies.differences([run.config for run in runs]) if several else {},
        figures=figures,
        plotly_js=get_plotlyjs(),
        page_css=(_HERE / "page.css").read_text(),
        page_js=(_HERE / "page.js").read_text(),
    )


def _contents(shown: Sequence[dict[str, Any]], curves_there: bool) -> dict[str, str]:
    """Sections that are there: id -> title."""
    there = {
        "curves": curves_there,
        "results": any(run["results"] or run["votes"] for run in shown),
        "detections": any(run["detected"] or run["precision"] for run in shown),
        "classes": any(run["classes"] for run in shown),
        "maps": any(run["map"] for run in shown),
        "neighbours": any(run["neighbours"] for run in shown),
        "views": any(run["views"] for run in shown),
        "recipe": True,
        "versions": any(run["facts"] for run in shown),
    }
    return {id_: title for id_, title in _SECTIONS.items() if there[id_]}


def _unit(runs: Sequence[Run]) -> Unit:
    """What time is shown in."""
    return _UNITS[max(rundir.seconds(run) for run in runs) < 2 * _UNITS[0].seconds]


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"value": _value, "breakable": _breakable, "flat": options.flat}
    return environment.get_template("page.html")


def _shown(number: int, run: Run, figures: dict[str, curves.Figure]) -> dict[str, Any]:
    """What the template shows of one run; adds what is drawn of it alone to the figures."""
    feature_map, legend, sheet = None, [], None
    if "map" in run.pictures:
        feature_map = f"map{number}"
        figures[feature_map], legend = featuremap.figure(run.pictures)
        sheet = _sheet(run)
    precision = f"precision{number}"
    if (drawn := detected.figure(run)) is not None:
        figures[precision] = drawn
    return {
        "name": run.name,
        "group": f"run{number}",
        "colour": curves.COLOURS[number % len(curves.COLOURS)],
        "outcome": rundir.outcome(run),
        "facts": run.facts,
        "summary": header.summary(run),
        "about": header.about(run),
        "changes": _changes(run.config),
        "options": options.flat(run.config),
        "results": [r for r in run.results if r["evaluation"] != "knn"],
        "votes": votes.matrices(run.results),
        "map": feature_map,
        "legend": legend,
        "sheet": sheet,
        "detected": detected.pairs(run),
        "precision": precision if precision in figures else None,
        "classes": perclass.read(run),
        "images": len(run.pictures.get("map", ())),
        "split": str(run.pictures.get("split", "")),
        "views": [[data_uri(view) for view in image] for image in run.pictures.get("views", ())],
        "neighbours": gallery.neighbours(run.pictures),
    }


def _sheet(run: Run) -> dict[str, Any] | None:
    """The thumbnails of a map: their picture, and how they lie in it."""
    if "map_sheet" not in run.pictures:  # of an earlier version
        return None
    height, width = run.pictures["map_size"].tolist()
    return {
        "src": jpeg_uri(run.pictures["map_sheet"].tobytes()),
        "cell": thumbnails.SIDE, "across": thumbnails.across(len(run.pictures["map"])),
        "height": height, "width": width,
    }  # fmt: skip


def _changes(config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options that differ from the defaults: name -> (value, default)."""
    known = options.flat(options.as_json(options.default()))
    return {
        name: (value, known.get(name))
        for name, value in options.flat(config).items()
        if name not in known or value != known[name]
    }


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
