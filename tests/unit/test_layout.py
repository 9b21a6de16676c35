"""Which folder is which split, for the names and depths that people's folders have."""

import pytest

from moco_jax.data import layout
from moco_jax.data.source import open_source
from moco_jax.errors import InputError
from tests.folders import labels, make_folder, names

TRAIN = ["train", "Train", "TRAIN", "training", "Training", "trn", "train_set", "Training-Set"]
TRAIN += ["trainset", "seg_train", "train2017", "train_images", "img train"]
VALIDATION = ["val", "Val", "valid", "Validation", "dev", "val_set", "seg_val", "validation-data"]
TEST = ["test", "Testing", "TEST", "test_set", "testset", "seg_test", "tst"]
CLASSES = ["cat", "train_station", "trainer", "contest", "latest", "developer", "test_tube"]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, layout.TRAIN) for name in TRAIN),
        *((name, layout.VALIDATION) for name in VALIDATION),
        *((name, layout.TEST) for name in TEST),
        *((name, None) for name in (*CLASSES, "set", "images", "2017", "")),
    ],
)
def test_a_name_says_its_split(name, role):
    assert layout.role(name) == role


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("test", ["val", "Testing", "seg_dev"])
@pytest.mark.parametrize("above", ["", "archive/", "archive/data set/"])
def test_split_folders_of_any_name_and_one_too_high(tmp_path, train, test, above):
    files = (f"{above}{train}/cat/1.png", f"{above}{train}/dog/1.png", f"{above}{test}/dog/2.png")
    part, other = open_source(make_folder(tmp_path, *files))
    assert (part.class_names, labels(part)) == (("cat", "dog"), [0, 1])
    assert (other.class_names, labels(other)) == (("cat", "dog"), [1])
    assert len(part.understood.notes) == above.count("/")


@pytest.mark.parametrize(
    ("files", "train", "test"),
    [
        # Kaggle's: each split in a folder of its own name; one that is none of them.
        (
            ["seg_train/seg_train/a/1.png", "seg_train/seg_train/b/2.png",
             "seg_test/seg_test/b/3.png", "seg_pred/seg_pred/4.png"],
            ["1.png", "2.png"], ["3.png"],
        ),
        # Images beside labels of detection.
        (["images/train/a/1.png", "images/train/b/2.png", "images/val/a/3.png"],
         ["1.png", "2.png"], ["3.png"]),
        # Class folders one folder down.
        (["pets/a/1.png", "pets/b/2.png"], ["1.png", "2.png"], None),
        # The only class of a test split is no folder too high.
        (["train/a/x/1.png", "train/b/x/2.png", "val/b/x/3.png"], ["1.png", "2.png"], ["3.png"]),
        # Of several names for a split the usual one.
        (["train/a/1.png", "train_images/a/2.png", "val/a/3.png", "test/a/4.png"],
         ["1.png"], ["3.png"]),
        (["train/a/1.png", "unlabeled/2.png"], ["1.png"], None),
    ],
)  # fmt: skip
def test_layouts_as_they_are_published(tmp_path, files, train, test):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "train.txt").write_text("0 0 0 1 1")
    splits = open_source(make_folder(tmp_path, *files))
    assert names(splits.train) == train
    assert (splits.test and names(splits.test)) == test
    assert splits.train.labelled
    used = [name for split in splits if split for name in names(split)]
    said = " ".join(splits.train.understood.notes)
    for file in files:  # whatever is not used is said
        assert file.rpartition("/")[2] in used or repr(file.partition("/")[0]) in said


@pytest.mark.parametrize(
    "folders",
    [
        ["Test"], ["val", "test"], ["Training v2", "Testing v2"], ["fold1", "fold2", "fold3"],
        ["query", "gallery"], ["labeled_train", "unlabeled"], ["cat", "dog", "test"],
        ["cat", "Validation"],
    ],
)  # fmt: skip
def test_folders_that_look_like_splits_without_a_train_are_shown(tmp_path, folders):
    spec = make_folder(tmp_path, *(f"{folder}/a/1.png" for folder in folders))
    with pytest.raises(InputError) as error:
        open_source(spec)
    seen = ", ".join(repr(folder) for folder in sorted(folders))
    assert f"look like splits but no 'train' beside them ({seen})" in str(error.value)
    nearest = open_source(f"folder:{tmp_path}/{folders[0]}").train  # the way out
    assert nearest.class_names == ("a",)


@pytest.mark.parametrize("classes", [CLASSES[1:], ["train_station", "trainer"]])
def test_classes_with_such_words_in_their_names_are_classes(tmp_path, classes):
    classes = [*classes, "owl"]
    source = open_source(make_folder(tmp_path, *(f"{name}/1.png" for name in classes))).train
    assert source.class_names == tuple(sorted(classes))


def test_a_class_called_train_is_not_taken_for_a_split_in_silence(tmp_path):
    spec = make_folder(tmp_path, "bus/1.png", "car/2.png", "train/3.png")
    message = r"holds 'train' beside 'bus' and 1 more folders with images: splits or classes\?"
    with pytest.raises(InputError, match=message):
        open_source(spec)
    assert names(open_source(f"{spec}/train").train) == ["3.png"]


def test_two_names_as_near_are_refused(tmp_path):
    with pytest.raises(InputError, match="both 'train_1' and 'train_2' look like the train split"):
        open_source(make_folder(tmp_path, "train_1/a/1.png", "train_2/a/1.png"))


@pytest.mark.parametrize("val", ["val", "Validation"])
def test_a_flat_validation_folder_is_refused_beside_classes(tmp_path, val):
    spec = make_folder(tmp_path, "train/cat/1.png", "train/dog/2.png", f"{val}/3.png")
    message = f"{val} holds 1 images without class folders.*2 classes; expected.*{val}/cat.*train"
    with pytest.raises(InputError, match=message):
        open_source(spec)


@pytest.mark.parametrize("holds", ["nothing", ".txt files: 1"])
def test_a_validation_folder_without_images_names_the_one_that_trains(tmp_path, holds):
    spec = make_folder(tmp_path, "train/cat/1.png", "train/dog/2.png")
    (tmp_path / "val").mkdir()
    if holds != "nothing":
        (tmp_path / "val" / "notes.txt").write_text("")
    with pytest.raises(InputError, match=rf"val holds no image .*{holds}.*folder:\S*train trains"):
        open_source(spec)


def test_a_flat_test_folder_has_no_labels_and_that_is_said(tmp_path):
    train, test = open_source(make_folder(tmp_path, "train/cat/1.png", "test/3.png"))
    assert (train.labelled, test.labelled, labels(test)) == (True, False, [-1])
    assert test.understood.labels == ""


def test_classes_are_numbered_by_the_training_split(tmp_path):
    files = ("train/a/1.png", "train/b/2.png", "train/c/3.png", "val/c/4.png", "val/b/5.png")
    train, test = open_source(make_folder(tmp_path, *files))
    assert (labels(train), labels(test)) == ([0, 1, 2], [1, 2])
    assert test.understood.classes == {"a": 0, "b": 1, "c": 1}
