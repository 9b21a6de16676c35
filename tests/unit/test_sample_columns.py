"""Which files of a sample are its image and its label."""

import json

import pytest

from tests.folders import labels, levels
from tests.shards import make_shard, opened, png, sample


def with_json(path, *contents):
    files = {}
    for level, content in enumerate(contents):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        files |= sample(level) | {f"{level:04}.json": text}
    return make_shard(path, files)


@pytest.mark.parametrize(
    ("contents", "column", "expected", "class_names"),
    [
        ([{"label": 2}, {"label": 0}], "", [2, 0], ("0", "1", "2")),
        ([{"label": "b"}, {"label": "a"}, {}], "", [1, 0, -1], ("a", "b")),
        ([{"meta": {"kind": "b"}}, {"meta": 3}], "json.meta.kind", [0, -1], ("b",)),
        ([{"caption": "x"}, {"url": "y"}], "", [-1, -1], ()),
        ([{"label": 1, "fine": 5}, {"fine": 0}], "json.fine", [5, 0], tuple("012345")),
        ([{"label": 1}, b"{", b"[" * 100_000], "", [1, -1, -1], ("0", "1")),
    ],
)
def test_labels_come_from_a_field_of_json(tmp_path, contents, column, expected, class_names):
    with_json(tmp_path / "a.tar", *contents)
    source, _ = opened(tmp_path, "", column)
    assert labels(source) == expected
    assert source.class_names == class_names
    assert source.labelled == bool(class_names)


@pytest.mark.parametrize(
    ("texts", "expected", "class_names"),
    [
        (["1\n", "0", ""], [1, 0, -1], ("0", "1")),
        (["dog", " cat ", ""], [1, 0, -1], ("cat", "dog")),
        (["1", "x"], [0, 1], ("1", "x")),
    ],
)
@pytest.mark.parametrize("kind", ["cls", "category.txt"])
def test_labels_come_from_text(tmp_path, texts, expected, class_names, kind):
    files = {}
    for level, text in enumerate(texts):
        files |= sample(level) | {f"{level:04}.{kind}": text.encode()}
    make_shard(tmp_path / "a.tar", files)
    source, _ = opened(tmp_path, "", "" if kind == "cls" else kind)
    assert (labels(source), source.class_names) == (expected, class_names)
    assert not source.understood.left_out


@pytest.mark.parametrize("chosen", ["left.png", "right.png", ".LEFT.png", "png;left.png"])
def test_of_several_images_one_is_chosen(tmp_path, chosen):
    make_shard(tmp_path / "a.tar", {"1.left.png": png(1), "1.right.png": png(2)})
    with pytest.raises(ValueError, match=r"'1' has 2 images, left.png, right.png.*image_column"):
        opened(tmp_path)
    source, _ = opened(tmp_path, chosen)
    assert levels(source) == [2 if "right" in chosen else 1]


@pytest.mark.parametrize(
    ("files", "columns", "message"),
    [
        ({"1.txt": b""}, (), r"no image; found .txt files: 1 \(1.txt\)"),
        ({}, (), "no image; found nothing"),
        (sample(1, 0), ("", "class"), r"data.label_column='class' is not one of cls"),
        (sample(1, 0), ("jpg",), "no image; found"),
        (sample(1, -5), (), "go down to -5"),
        (sample(1) | {"0001.json": b'{"label": [1]}'}, (), "labels|list; expected integers"),
        (sample(1) | {"0001.json": b'{"label": 1, "class": 2}'}, ("", ""), None),
        (
            sample(1) | {"0001.json": b'{"target": 1, "class": 2}'}, (),
            "2 columns of labels, json.class, json.target: choose one",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path, files, columns, message):
    make_shard(tmp_path / "a.tar", files)
    if message is None:
        assert labels(opened(tmp_path, *columns).train) == [1]
        return
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, *columns)
