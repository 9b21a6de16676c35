"""Annotated images of TFDS: the same as of the files that TFDS has made its records from."""

import numpy as np
import pytest

from moco_jax.detection import coco_ap, protocol
from moco_jax.detection.annotated import open_annotated
from moco_jax.detection.detections import Detections
from moco_jax.errors import InputError
from tests import recorded, shapes, tiny_tfds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """TFDS's data folder, and beside it the files."""
    root = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        seven = {"train": ["a", "b"], "val": ["c"], "test": ["aa", "cc"]}
        recorded.prepare_voc(root / "7", root / "data", "2007", seven, patch)
        twelve = {"train": ["bb"], "val": ["aaa"], "test": ["ccc"]}
        recorded.prepare_voc(root / "12", root / "data", "2012", twelve, patch)
        # Of this test TFDS has no annotations.
        (root / "12" / "VOCdevkit/VOC2012/ImageSets/Main/test.txt").unlink()
        recorded.prepare_coco(root / "coco", root / "data", patch)
    return root


@pytest.fixture
def there(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "data"))
    return folder


def by_name(part):
    return {image.name: image for image in part.images}


def assert_same(ours, theirs, pixels=10**6):
    """The same images and objects, the classes by name."""
    assert by_name(ours).keys() == by_name(theirs).keys()
    for name, one in by_name(ours).items():
        other = by_name(theirs)[name]
        for field in ("boxes", "difficult", "crowd", "ids"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field), field)
            assert getattr(one, field).dtype == getattr(other, field).dtype
        assert [ours.class_names[i] for i in one.classes] == [
            theirs.class_names[i] for i in other.classes
        ]
        assert (one.height, one.width) == (other.height, other.width)
        np.testing.assert_array_equal(one.pixels(pixels), other.pixels(pixels))


@pytest.mark.parametrize(
    ("years", "said", "flat"),
    [
        (["2007"], "2007 trains by trainval, tests by test", "1 (b"),
        (["2012"], "2012 trains by train, tests by val", "1 (bb"),
        (["2007", "2012"], "tests by test, 2012 trains by trainval", "2 (b"),
    ],
)
def test_voc_is_as_of_its_files(years, said, flat, there, caplog):
    caplog.set_level("INFO")
    ours = open_annotated(f"tfds:{','.join(f'voc/{year}' for year in years)}")
    assert any(line.endswith(said) for line in caplog.messages)
    roots = {"2007": there / "7", "2012": there / "12"}
    devkits = [str(roots[year] / "VOCdevkit" / f"VOC{year}") for year in years]
    theirs = open_annotated(f"voc:{','.join(devkits)}")
    assert_same(ours.train, theirs.train)
    assert_same(ours.test, theirs.test)
    assert len(ours.train.class_names) == 20
    assert ours.train.content is None
    assert f"boxes without an area: {flat}.jpg)" in caplog.text


def test_coco_is_as_of_its_files_and_has_its_precision(there):
    ours = open_annotated("tfds:coco/2017")
    file = there / "coco" / "annotations" / "instances_{}2017.json"
    for part, split in ((ours.train, "train"), (ours.test, "val")):
        images = there / "coco" / f"{split}2017"
        theirs = open_annotated(f"coco:{str(file).format(split)}:{images}").train
        assert_same(part, theirs)
        assert [image.number for image in part.images] == [
            by_name(theirs)[image.name].number for image in part.images
        ]
    assert ours.test.for_training().understood.notes == ("1 crowds, not trained on",)
    assert len(ours.test.for_training()) == 2
    kinds = [image.classes[~image.crowd] for image in ours.test.images]
    found = [
        Detections(image.boxes[~image.crowd] + 1.0, np.full(len(kind), 0.9), kind)
        for image, kind in zip(ours.test.images, kinds)
    ]
    moved = dict(zip((image.name for image in ours.test.images), found))
    # With areas in whole numbers, as TFDS keeps them, the bounds of small and large are the same.
    wanted = coco_ap.evaluate(theirs, [moved[image.name] for image in theirs.images], "boxes")
    assert coco_ap.evaluate(ours.test, found, "boxes") == wanted
    assert 0 < wanted["AP"] < 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("voc/2007,tfds:voc/2012", "'tfds:voc/2012' is no name; expected tfds:NAME or"),
        ("voc/2007,", "'' is no name"),
        ("voc/2007,coco/2017", "coco/2017 has other classes than voc/2007"),
        ("coco/2017,coco/2017", "expected one data set, or several of VOC's form"),
        ("coco/2014", r"coco/2014 is not prepared in .*No module named 'tensorflow'.*tfds build"),
        ("vco/2007", "no data set 'vco/2007'.*did you mean"),
        (
            "tiny_images",
            r"no feature 'image' and 'objects'.*only file_name, image, label; expected",
        ),
    ],
)
def test_what_is_no_such_data_set_is_refused(spec, message, there):
    if spec == "tiny_images":
        tiny_tfds.write_files(there / "data")
    with pytest.raises(InputError, match=message):
        open_annotated(f"tfds:{spec}")


@pytest.mark.parametrize(("option", "what"), [("masks", "outlines"), ("keypoints", "keypoints")])
def test_outlines_and_keypoints_are_not_in_tfds(option, what, there):
    c = shapes.tiny_config("tfds:voc/2007", **{option: True})
    c.evals.source = ""
    with pytest.raises(InputError, match=f"{option}=True, and tfds:voc/2007 has no {what}; expect"):
        protocol.build(c)


def test_a_batch_comes_of_records(there):
    c = shapes.tiny_config("tfds:voc/2007,voc/2012")
    c.evals.source = ""
    x = protocol.build(c)
    with x.own.batches(0) as stream:
        batch = next(stream)
    assert batch["there"].sum() >= 8
    assert np.asarray(batch["image"]).any((1, 2, 3)).all()
