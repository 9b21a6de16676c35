"""What a report says of classes, and of the nearest neighbours of some images."""

import numpy as np
import pytest

from moco_jax.report import gallery, noise, perclass
from moco_jax.report.rundir import Run
from tests import runs


class TestClasses:
    def run(self, counts, **pictures):
        names = np.array(["shirt", "boot", "bag"])
        confusion = {} if counts is None else {"counts": np.array(counts), "class_names": names}
        return Run("run", {}, [], [], {}, pictures, confusion)

    def test_accuracy_what_it_is_taken_for_and_precision(self):
        labels = np.array([0, 0, 1, -1])
        found = perclass.read(self.run(
            [[6, 3, 1], [0, 10, 0], [0, 0, 0]], precision_labels=labels, precision_k=np.array(8),
            precision=np.array([0.5, 1, 0.25, np.nan]), pixel_precision=np.array([0, 0, 1, np.nan]),
        ))  # fmt: skip
        shirt, boot = found.lines
        assert shirt == (
            "shirt", 10, 0.6, noise.wilson(0.6, 10), (("boot", 3), ("bag", 1)), (0.75, 0),
        )  # fmt: skip
        assert (boot.top1, boot.taken_for, boot.precision) == (1.0, (), (0.25, 1))
        assert (found.k, found.among) == (8, 4)
        assert found.precision == pytest.approx((1.75 / 3, 1 / 3))
        assert found.names == ["shirt", "boot", "bag"]
        assert found.matrix == [[60, 30, 10], [0, 100, 0], [0, 0, 0]]

    def test_of_many_the_worst(self):
        counts = np.diag(np.arange(1, 41)) + 5
        found = perclass.read(self.run(counts))
        assert (len(found.lines), found.total, found.matrix) == (20, 40, [])
        assert found.lines[0].name == "shirt"
        assert found.lines[-1].name == "class 19"

    def test_without_labels_there_is_nothing(self):
        assert perclass.read(self.run(None)) is None
        only = perclass.read(self.run(
            None, precision_labels=np.array([1]), precision=np.array([1.0]),
            pixel_precision=np.array([0.5]), class_names=np.array(["a", "b"]),
        ))  # fmt: skip
        assert only.lines == [("b", 0, None, None, (), (1.0, 0.5))]


class TestGallery:
    def test_the_same_queries_side_by_side(self):
        one, two = (Run("run", {}, [], [], {}, runs.pictures()) for _ in range(2))
        bare = Run("run", {}, [], [], {}, {})
        found = gallery.side_by_side([one, bare, two])
        assert len(found) == 8
        assert [row["run"] for row in found[0]["rows"]] == [0, 2]
        assert all(len(row["found"]) == 5 for query in found for row in query["rows"])
        other = two._replace(pictures=two.pictures | {"split": np.array("others")})
        assert gallery.side_by_side([one, other]) == []
        assert gallery.side_by_side([one, bare]) == []

    def test_raw_pixels_have_a_row_and_files_a_link(self):
        (query, *_) = gallery.neighbours(runs.pictures(labels=False))
        assert [row["by"] for row in query["rows"]] == ["features", "raw pixels"]
        assert query["query"]["link"].startswith("file:///a%20place/0%3Cscript%3E")
        assert gallery.neighbours(runs.pictures())[0]["query"]["link"] == ""

    def test_pictures_of_earlier_runs(self):
        new = ("pixel_", "precision", "map_s", "place", "query_names", "neighbour_names")
        old = {k: v for k, v in runs.pictures().items() if not k.startswith(new)}
        (query, *_) = gallery.neighbours(old)
        assert (len(query["rows"]), query["query"]["file"]) == (1, "")
