"""Directories of runs, written by hand: what a report reads, without training anything."""

import json

import numpy as np

from moco_jax import config, files, results
from moco_jax.evals import confusion
from moco_jax.report import rundir, thumbnails

NASTY = "<script>alert('x')</script> & </script>\"</b>%{x}"


def rows(count=12, labels=True, every=10, scale=1.0):
    """Rows of metrics.jsonl, as the loop writes them, the first at step 0."""
    out = [{"step": 0, "epoch": 0.0}]
    if labels:
        out[0] |= {"knn_top1_raw": 0.8, "knn_top1": 0.5}
    for i in range(1, count):
        out.append({
            "step": every * i, "epoch": every * i / 25, "loss": 5.0 + scale / i,
            "loss_chance": 5.5, "contrast_top1": 1 - 1 / (1 + i), "learning_rate": 0.1 / i,
            "ema": 0.99, "grad_norm": 0.5 * scale / i, "grad_norm_first": 0.3 / i,
            "grad_norm_last": 0.01 * i, "feature_std": 0.5 + 0.01 * i, "skipped": 0,
            "skipped_in_a_row": 0, "images_per_second": 200.0 + i, "input_wait": 0.01,
        })  # fmt: skip
        if labels and i % 4 == 0:
            out[-1]["knn_top1"] = 0.6 + 0.01 * i
    return out


def pictures(labels=True, size=28, images=200, names=("shirt", "boot", NASTY)):
    """Arrays as `pictures.collect` gives them."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, images) if labels else np.full(images, -1)

    def noise(*shape):
        return rng.integers(0, 256, (*shape, size, size, 3)).astype(np.uint8)

    found = rng.integers(0, images, (8, 8))
    called = np.array([f"{i}{NASTY}.png" for i in range(images)])
    precision = {
        "precision_labels": label,
        "precision_k": np.array(8),
        "precision": rng.random(images).astype(np.float32),
        "pixel_precision": rng.random(images).astype(np.float32),
    } if labels else {}  # fmt: skip
    return {
        "class_names": np.array(names if labels else (), np.str_),
        "split": np.array("test images of noise"),
        "views": noise(8, 3),
        "queries": noise(8),
        "query_labels": label[:8],
        "query_names": called[:8],
        "neighbours": noise(8, 8),
        "neighbour_names": called[found],
        "neighbour_labels": label[found],
        "cosine": np.sort(rng.random((8, 8)).astype(np.float32))[:, ::-1],
        "pixel_neighbours": noise(8, 8),
        "pixel_neighbour_names": called[found],
        "pixel_neighbour_labels": label[found],
        "pixel_cosine": np.ones((8, 8), np.float32),
        "place": np.array("" if labels else "/a place"),
        "map": rng.normal(size=(images, 2)).astype(np.float32) + 4 * label[:, None],
        "map_labels": label,
        "map_names": called,
        "map_sheet": thumbnails.sheet(noise(images)[:, :28, :28]),
        "map_size": np.array([28, 28]),
    } | precision


def write_run(path, metrics=None, shown=None, facts=True, **overrides):
    """Writes a directory that looks like that of a run; returns its path."""
    path.mkdir(parents=True)
    c = config.default()
    c.update_from_flattened_dict(overrides)
    (path / "config.json").write_text(c.to_json_best_effort())
    metrics = rows() if metrics is None else metrics
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    if shown:
        rundir.save_pictures(path, shown)
    if facts:
        part = {"name": NASTY, "count": 12345}
        rundir.save_facts(path, {
            "outcome": "complete", "message": "", "steps": 110, "date": "2026-11-22 10:00 UTC",
            "hardware": part, "versions": part, "data": part,
        })  # fmt: skip
    return path


def add_knn(path, classes=3, encoders=("raw pixels", "untrained", "step 110")):
    """Votes of kNN, and what classes were taken for."""
    for number, encoder in enumerate(encoders):
        for k in (10, 20, 200):
            for t in (0.02, 0.07, 0.2, 1.0):
                results.add(
                    path, "knn", protocol="a vote", seed=0, split="test images", examples=2000,
                    settings={"encoder": encoder, "features": "backbone", "bank": 10_000, "k": k,
                              "temperature": t},
                    metrics={"top1": 0.5 + 0.1 * number + 0.001 * k},
                )  # fmt: skip
    counts = np.random.default_rng(0).integers(0, 90, (classes, classes))
    names = np.array([f"class of {i} {NASTY}" for i in range(classes)])
    files.replace(path / confusion.FILE, files.as_npz({"counts": counts, "class_names": names}))


def add_result(path):
    """A result whose settings hold a table, as a sweep of learning rates has."""
    results.add(
        path, "linear", protocol="a probe of " + NASTY, settings={
            "k": 20, "sweep": [{"base_lr": 0.1, "top1": 0.5}, {"base_lr": 1.0, "top1": 0.75}],
            "chosen": {"base_lr": 1.0},
        }, seed=0, split="test images", examples=2000, metrics={"top1": 0.77, "loss": 1.25},
    )  # fmt: skip
