"""What was understood of a data set is said at the start, and kept with the run."""

import json
import logging

import numpy as np
import pytest

from moco_jax.data import pipeline
from moco_jax.data.source import (
    ArraySource,
    EncodedSource,
    Splits,
    data_facts,
    log_data,
    open_source,
)
from moco_jax.report import rundir
from moco_jax.training import experiment
from moco_jax.training.context import make_context
from moco_jax.training.description import describe
from tests.folders import make_folder, save_image
from tests.tiny import tiny_config, write_npz


def test_a_folder_is_understood_as_a_person_would(tmp_path):
    files = ["train/cat/1.jpg", "train/cat/2.PNG", "train/dog/1.jpg", "train/owl/1.jpg",
             "val/dog/4.jpg", "extra_test/5.jpg"]  # fmt: skip
    spec = make_folder(tmp_path, *files)
    for name in ("train/cat/notes.txt", "train/cat/more.txt", "train/.hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / "train" / "ant").mkdir()
    (tmp_path / "val" / "dog" / "gone.jpg").symlink_to("nowhere")
    save_image(tmp_path / "val" / "@eaDir" / "1.jpg")
    assert data_facts(open_source(spec)) == {
        "training images": f"4 (.jpg 3, .png 1), {tmp_path}/train",
        "labels of training images": "3 classes by name of folder: cat 2, dog 1, owl 1",
        "left out of training images": ".txt files: 2 (cat/more.txt); folders without images: 1 "
        "(ant); hidden files and folders: 1 (.hidden)",
        "test images": f"1 (.jpg), {tmp_path}/val",
        "labels of test images": "1 class by name of folder: dog 1",
        "left out of test images": "links that lead nowhere: 1 (dog/gone.jpg); system folders: 1 "
        "(@eaDir)",
        "classes without test images": "cat, owl",
        "taken": f"not 'extra_test' of {tmp_path}",
    }


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (None, "none"),
        ([0, 1, 1, 2], "3 classes by array labels: 0 1, 1 2, 2 1"),
        ([0, 0, 0, 0], "1 class by array labels: 0 4"),
        ([3, -1, 3, -1], "1 class by array labels: 3 2; without a label 2"),
        ([-1] * 4, "none in array labels"),
        (["b", "a", "b", "b"], "2 classes by array labels: a 1, b 3"),
    ],
)
def test_labels_of_arrays_are_counted(tmp_path, labels, text):
    arrays = {} if labels is None else {"labels": np.array(labels)}
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 6, 7), np.uint8), **arrays)
    found = data_facts(open_source(f"npz:{tmp_path}/x.npz"))
    assert found["labels of training images"] == text
    assert found["training images"] == "4 (6 x 7), array images"


def test_many_classes_are_shortened(tmp_path):
    spec = make_folder(tmp_path, *(f"c{i:02}/1.png" for i in range(12)))
    text = "12 classes by name of folder: c00 1, c01 1, c02 1, c03 1, c04 1 and 7 more"
    assert data_facts(open_source(spec))["labels of training images"] == text


def test_the_embedded_images_are_understood():
    found = data_facts(open_source("embedded"))
    assert found["labels of training images"].startswith("10 classes by array labels: T-shirt/top")
    assert found["test images"] == "2,000 (28 x 28), array test_images"


@pytest.mark.parametrize("size", [(6, 8), (70, 80)])
def test_the_start_of_a_run_says_it_and_its_facts_keep_it(tmp_path, caplog, size):
    for i in range(20):
        save_image(tmp_path / "images" / "ab"[i % 2] / f"{i}.png", i, size)
    (tmp_path / "images" / "a" / "notes.txt").write_text("")
    c = tiny_config("v3", f"folder:{tmp_path}/images")
    c.data.batch_size = 16
    x = experiment.build(c)
    with caplog.at_level(logging.INFO):
        describe(x)
    text = "2 classes by name of folder: a 10, b 10"
    assert f"labels of training images: {text}" in caplog.text
    assert "left out of training images: .txt files: 1 (a/notes.txt)" in caplog.text
    data = json.loads(json.dumps(rundir.facts(make_context(x, tmp_path), "complete")))["data"]
    assert data["labels of training images"] == text
    assert data["left out of training images"] == ".txt files: 1 (a/notes.txt)"
    assert (data["images trained on"], data["channels"]) == (20, 3)


@pytest.mark.parametrize(
    ("source", "images", "labels"),
    [
        (ArraySource("mine", np.zeros((4, 6, 7, 2), np.uint8)), "4 (6 x 7), mine", "none"),
        (ArraySource("mine", np.zeros((4, 6, 7, 2), np.uint8), np.array([1, 1, 0, -1], np.int32),
                     ("a", "b")),
         "4 (6 x 7), mine", "2 classes by the source: a 1, b 2; without a label 1"),
        (EncodedSource("mine", 9, None, None), "9 (encoded), mine", "none"),
        (EncodedSource("mine", 9, None, None, True, ("a", "b")), "9 (encoded), mine",
         "the source, 2 classes, not counted"),
    ],
)  # fmt: skip
def test_a_source_of_ones_own_is_understood_by_what_is_seen_of_it(source, images, labels):
    found = data_facts(Splits(source, None))
    assert (found["training images"], found["labels of training images"]) == (images, labels)


def test_parts_of_a_source_keep_what_was_understood_of_the_whole(tmp_path, caplog):
    c = tiny_config("v3", write_npz(tmp_path / "x.npz"))
    c.data.label_share = 0.5
    x = experiment.build(c)
    with caplog.at_level(logging.INFO):
        log_data(x.data)
    assert "training images: 80 (12 x 12 x 1)" in caplog.text
    assert "x.npz, 39 of 80" in caplog.text
    assert len(pipeline.open_data(c.data).train) == 80
