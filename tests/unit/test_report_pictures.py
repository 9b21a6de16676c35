"""The pictures of a report: which images, which neighbours, what is left out."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from moco_jax.report import datauri, featuremap, pictures, similar, thumbnails
from moco_jax.training import experiment
from moco_jax.training.context import make_context
from tests.tiny import tiny_config, write_npz

VOID = {"meta", "link", "img", "br", "wbr"}
ADDRESS = {"src", "href", "action", "data", "poster", "srcset", "xlink:href"}


class TestPictures:
    def test_nearest_are_the_most_similar_others(self):
        x = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
        x[7] = 3 * x[2]
        found, cosine = similar.nearest(x, np.array([2, 9]), 4)
        unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None]
        for row, query in enumerate((2, 9)):
            others = [i for i in np.argsort(-unit @ unit[query]) if i != query][:4]
            assert found[row].tolist() == others
        np.testing.assert_allclose(cosine[0, 0], 1, rtol=1e-6)
        assert similar.nearest(x[:3], np.array([0]), 8)[0].shape == (1, 2)
        with pytest.raises(ValueError, match="only one image"):
            similar.nearest(x[:1], np.array([0]), 8)

    @pytest.mark.parametrize("n", [2, 9, 700])
    def test_of_equally_similar_ones_the_first_come_first(self, n):
        """As a stable sort of all cosines gives them."""
        x = np.random.default_rng(1).integers(-1, 2, (n, 3)).astype(np.float32)
        found, cosine = similar.nearest(x, np.arange(n), 8)
        unit = similar.normalized(x)
        every = unit @ unit.T
        np.fill_diagonal(every, -np.inf)
        expected = np.argsort(-every, 1, kind="stable")[:, : min(8, n - 1)]
        np.testing.assert_allclose(cosine, np.take_along_axis(every, expected, 1), atol=1e-6)
        exact = np.take_along_axis(every, found, 1)
        np.testing.assert_allclose(exact, cosine, atol=1e-6)
        assert all(len(set(row)) == len(row) for row in found.tolist())
        same = np.isclose(cosine[:, 1:], cosine[:, :-1], rtol=0, atol=0)
        assert (found[:, 1:] > found[:, :-1])[same].all()

    @pytest.mark.parametrize(
        ("labels", "count", "expected"),
        [
            ([2, 0, 1, 0, 2, 1], 3, [1, 2, 0]),
            ([2, 0, 1, 0, 2, 1], 5, [1, 3, 2, 5, 0]),
            ([-1, 0, -1, 0], 8, [1, 3]),
            ([0, 1, 2, 3, 4, 5], 3, [0, 2, 4]),
            ([-1] * 6, 3, [0, 2, 4]),
        ],
    )
    def test_queries_are_of_each_class(self, labels, count, expected):
        assert similar.queries(np.array(labels), count).tolist() == expected

    def test_precision_is_the_share_of_the_own_class(self):
        x = np.array([[1, 0], [1, 0.1], [0.9, 0], [0, 1], [0.1, 1]], np.float32)
        labels = np.array([0, 0, 1, 1, -1])
        found = similar.precision(x, labels, 2)
        np.testing.assert_array_equal(found, [0.5, 0.5, 0, 0, np.nan])

    @pytest.mark.parametrize("n", [1, 5, 2000])
    def test_a_sheet_has_a_cell_for_each(self, n):
        images = np.zeros((n, 8, 32, 3), np.uint8)
        shown = Image.open(io.BytesIO(thumbnails.sheet(images).tobytes()))
        columns = thumbnails.across(n)
        assert shown.size == (32 * columns, 32 * -(-n // columns))
        assert columns * shown.size[1] // 32 >= n

    def test_the_map_repeats_and_keeps_groups_together(self):
        rng = np.random.default_rng(0)
        kinds = np.repeat([0, 1], 30)
        x = rng.normal(size=(60, 8)) + 20 * np.eye(8)[kinds]
        points = pictures.embed(x.astype(np.float32), 0)
        np.testing.assert_array_equal(points, pictures.embed(x.astype(np.float32), 0))
        gap = np.linalg.norm(points[:, None] - points[None], axis=-1)
        np.fill_diagonal(gap, np.inf)
        assert (kinds[gap.argmin(1)] == kinds).all()
        assert pictures.embed(x[28:32, :2].astype(np.float32), 0).shape == (4, 2)
        with pytest.raises(ValueError, match="3 images are too few"):
            pictures.embed(x[:3], 0)

    def test_come_from_the_images_whose_features_they_show(self, tmp_path):
        """Files of which one cannot be read: rows of features are not those of the files."""
        for i in range(20):
            image = np.full((70, 80, 3), 12 * i, np.uint8)
            (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / "ab"[i % 2] / f"{i:02}.png")
        (tmp_path / "a" / "02.png").write_bytes(b"none")
        c = tiny_config("v3", f"folder:{tmp_path}")
        c.data.update(batch_size=8, eval_batch_size=8, image_size=16, max_bad_share=0.5)
        x = experiment.build(c)
        found = pictures.collect(
            make_context(x, tmp_path),
            lambda batch: batch["crops"][0][:, 0, 0].astype(np.float32) + 1,
        )
        assert len(found["map"]) == 19
        files = [f"{'ab'[i % 2]}/{i:02}.png" for i in range(20) if i != 2]
        assert sorted(found["map_names"].tolist()) == sorted(files)
        shown = [found[f"{which}_names"].ravel().tolist() for which in ("query", "neighbour")]
        assert {*shown[0], *shown[1]} <= set(files)
        levels = [12 * int(name[2:4]) for name in shown[0]]
        np.testing.assert_array_equal(found["queries"][:, 0, 0, 0], levels)
        assert found["class_names"].tolist() == ["a", "b"]
        even = found["queries"][:, 0, 0, 0] // 12 % 2 == 0
        np.testing.assert_array_equal(even, found["query_labels"] == 0)
        assert found["neighbours"].shape == (10, 8, 16, 16, 3)
        assert found["place"] == str(tmp_path), "names are links to the files"
        assert set(found["pixel_neighbour_names"].ravel().tolist()) <= set(files)
        # A flat image has the same cosine to all others: a tie, in which the first come first.
        assert found["precision"].shape == found["pixel_precision"].shape == (19,)
        sheet = np.asarray(Image.open(io.BytesIO(found["map_sheet"].tobytes())))
        assert sheet.shape == (4 * 32, 5 * 32, 3)
        assert found["map_size"].tolist() == [16, 16]
        for at, name in enumerate(found["map_names"].tolist()):
            row, column = divmod(at, 5)
            cell = sheet[32 * row :, 32 * column :][:16, :16]
            np.testing.assert_allclose(cell, 12 * int(name[2:4]), atol=6)
        assert found["views"].shape == (8, 3, 16, 16, 3)

    def test_without_features_leave_the_views(self, tmp_path, caplog):
        x = experiment.build(tiny_config("v3", write_npz(tmp_path / "x.npz", channels=5)))
        found = pictures.collect(
            make_context(x, tmp_path), lambda batch: np.full((16, 3), np.nan, np.float32)
        )
        assert found["views"].shape == (8, 3, 12, 12, 3)
        assert "map" not in found
        assert "No features in the report: NotFiniteError" in caplog.text

    def test_legend_names_the_most_frequent_classes(self):
        labels = np.repeat(np.arange(15), np.arange(1, 16))
        entries = featuremap.classes(labels, np.array([], np.str_))
        assert entries[0][0].name == "5 other classes"
        assert [entry.name for entry, _ in entries[1:]] == [f"class {i}" for i in range(5, 15)]
        assert sum(len(rows) for _, rows in entries) == len(labels)
        ((entry, rows),) = featuremap.classes(np.full(4, -1), np.array([], np.str_))
        assert (entry.name, len(rows)) == ("no labels", 4)

    def test_large_pictures_become_smaller_and_small_ones_stay_exact(self):
        image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        kind, data = datauri.data_uri(image).split(",")
        assert kind == "data:image/png;base64"
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), image
        )
        kind, data = datauri.data_uri(image.repeat(5, 0).repeat(5, 1)).split(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (224, 224)
