"""`moco_jax.load`: the same features as in training, from whatever holds an image."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import moco_jax
from moco_jax import convert, encoder
from moco_jax.data import device_crop, images
from moco_jax.errors import CheckpointError, NotFiniteError
from moco_jax.evals.extraction import extract
from moco_jax.training import experiment
from tests.tiny import tiny_config, write_npz
from tests.workdir import write_workdir


def perturbed(name, leaf):
    """Statistics of groups that differ, as after training."""
    noise = np.random.default_rng(len(name)).uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    return (
        leaf * noise + (0.1 * noise if name.endswith("/mean") else 0) if "/stats/" in name else leaf
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir of a queue method with BatchNorm in groups; images are larger than it sees."""
    path = tmp_path_factory.mktemp("run")
    c = tiny_config("v1", write_npz(path / "images.npz", images=40, size=16))
    c.data.eval_crop_share = 0.875
    x, state = write_workdir(path / "run", c, perturbed)
    return path / "run", x, state


def expected(x, state, features):
    x.config.knn.features = features
    encode = experiment.make_encode(x)
    return extract(lambda batch: encode(state, batch), experiment.eval_batches(x, x.data.train))[0]


@pytest.mark.parametrize("features", ["backbone", "projection"])
def test_features_are_those_of_training_s_evaluation(run, features):
    """Within 1e-5: the host resizes in another order of sums, and averages groups in float64."""
    path, x, state = run
    encode = moco_jax.load(path, features=features)
    found = encode(x.data.train.images)
    assert found.dtype == np.float32
    assert found.shape == (40, encode.num_features) == (40, 16 if features == "backbone" else 8)
    np.testing.assert_allclose(found, expected(x, state, features), atol=1e-5)
    assert (encode.mean, encode.std) == (x.mean, x.std)
    assert (encode.image_size, encode.channels, encode.config.seed) == (12, 1, 0)


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """A workdir trained on files of several sizes, too large for arrays."""
    path, rng = tmp_path_factory.mktemp("colour"), np.random.default_rng(0)
    (path / "images").mkdir()
    for i in range(16):
        pixels = rng.integers(0, 256, (70 + i, 90 - i, 3), np.uint8)
        Image.fromarray(pixels).save(path / "images" / f"{i:02}.png")
    c = tiny_config("v3", f"folder:{path}/images")
    c.data.eval_crop_share = 0.875
    x, state = write_workdir(path / "run", c)
    return path, x, state


def test_paths_and_pil_images_are_seen_as_a_folder_is(colour):
    path, x, state = colour
    encode = moco_jax.load(path / "run")
    files = sorted((path / "images").iterdir())
    found = encode(files)
    np.testing.assert_allclose(found, expected(x, state, "backbone"), atol=1e-5)
    np.testing.assert_array_equal(encode([Image.open(file) for file in files]), found)
    np.testing.assert_array_equal(encode([str(file) for file in files]), found)
    np.testing.assert_allclose(encode(files[3]), found[3:4], atol=1e-5)
    arrays = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_allclose(encode(arrays[4]), encode(arrays)[4:5], atol=1e-5)
    assert encode([]).shape == (0, 16)


def test_ways_to_hold_the_same_images(run):
    encode, pixels = moco_jax.load(run[0]), run[1].data.train.images[:3]
    whole = encode(pixels)
    np.testing.assert_array_equal(encode(list(pixels)), whole)
    np.testing.assert_array_equal(encode(list(pixels[..., 0])), whole)
    np.testing.assert_allclose(encode(pixels[1]), whole[1:2], atol=1e-5)
    np.testing.assert_allclose(encode(pixels[1, :, :, 0]), whole[1:2], atol=1e-5)
    gray = Image.fromarray(pixels[1, :, :, 0])
    np.testing.assert_allclose(encode([gray, gray.convert("RGB")]), whole[[1, 1]], atol=1e-5)


def test_a_file_is_made_gray_for_an_encoder_of_gray_images(run, tmp_path):
    encode, pixels = moco_jax.load(run[0]), run[1].data.train.images[0, :, :, 0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(encode(tmp_path / "a.png"), encode(pixels))


def test_few_programs_whatever_the_number_of_images(run):
    encode, pixels = moco_jax.load(run[0], batch_size=8), run[1].data.train.images
    whole = encode(pixels)
    for count in (1, 2, 3, 5, 7, 8, 9, 23):
        np.testing.assert_allclose(encode(pixels[:count]), whole[:count], atol=1e-5)
    assert encode._jitted._cache_size() == 4, "batches of 1, 2, 4 and 8"


def test_apply_is_pure_and_normalizes(run):
    encode, pixels = moco_jax.load(run[0]), run[1].data.train.images[:4, :12, :12]
    full = moco_jax.load(run[0])
    full.config.data.eval_crop_share = 1.0
    direct = jax.jit(encode.apply)(encode.params, jnp.asarray(pixels, jnp.float32) / 255)
    np.testing.assert_allclose(direct, full(pixels), atol=1e-5)


def test_the_key_encoder_and_the_digest(run, tmp_path):
    path, x, _ = run
    query, key, again = (moco_jax.load(path, encoder=e) for e in ("query", "key", None))
    assert query.digest == again.digest != key.digest
    random = encoder.untrained(query, 1)
    assert random(x.data.train.images[:2]).shape == (2, 16)
    assert random.digest != query.digest


def test_untrained_is_what_training_starts_from(run):
    path, x, state = run
    start = encoder.untrained(moco_jax.load(path), x.config.seed).params["params"]
    for name in start:
        jax.tree.map(np.testing.assert_array_equal, start[name], state.params[name])


def test_a_file_of_another_program(run, tmp_path):
    convert.convert(run[0], tmp_path / "x.safetensors")
    ours, theirs = (
        moco_jax.load(p, mean=run[1].mean, std=run[1].std)
        for p in (run[0], tmp_path / "x.safetensors")
    )
    theirs.config.data.eval_crop_share = 0.875
    pixels = run[1].data.train.images[:3]
    np.testing.assert_allclose(theirs(pixels), ours(pixels), atol=1e-5)


def test_another_image_size(run):
    encode = moco_jax.load(run[0], image_size=16)
    assert encode.image_size == 16
    assert encode(run[1].data.train.images[:2]).shape == (2, 16)


@pytest.mark.parametrize(("height", "width", "channels"), [(50, 37, 3), (9, 13, 1), (16, 16, 5)])
def test_arrays_are_prepared_as_on_the_device(height, width, channels):
    """Within 1e-6: PIL's filter is the same, in float32."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)
    for share in (0.875, 1.0):
        box = device_crop.center_box(height, width, share)
        wanted = device_crop.crop_resize(jnp.asarray(image, jnp.float32) / 255, box, 16)
        found = images.prepare(image, 16, share, channels)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


class TestBadInput:
    def test_images(self, run, colour, tmp_path):
        encode = moco_jax.load(run[0])
        for bad, message in (
            (np.zeros((4, 4), np.float32), "an image is float32; expected uint8"),
            (np.zeros((2, 4, 4, 3), np.uint8), r"shape \(4, 4, 3\); expected \(H, W, 1\)"),
            (np.zeros((4,), np.uint8), r"shape \(4,\); expected"),
            ([np.zeros((0, 4), np.uint8)], r"shape \(0, 4, 1\)"),
            ([3], "not int"),
        ):
            with pytest.raises(ValueError, match=message):
                encode(bad)
        (tmp_path / "bad.png").write_text("nothing")
        with pytest.raises(ValueError, match=r"bad\.png: no kind of image"):
            moco_jax.load(colour[0] / "run")(tmp_path / "bad.png")
        with pytest.raises(FileNotFoundError, match=r"missing\.png"):
            encode(tmp_path / "missing.png")

    def test_arguments(self, run, tmp_path):
        for bad, message in (
            ({"features": "projector"}, "did you mean 'projection'"),
            ({"encoder": "keys"}, "did you mean 'key'"),
            ({"dtype": "float16"}, "dtype='float16' is not one of"),
            ({"batch_size": 0}, "batch_size=0"),
            ({"image_size": 13}, "not a multiple of the patch size 4"),
            ({"mean": (0.5, 0.5)}, "expected 1 numbers in each"),
            ({"mean": (0.5,), "std": (0.0,)}, "std above 0"),
        ):
            with pytest.raises(ValueError, match=message):
                moco_jax.load(run[0], **bad)
        with pytest.raises(FileNotFoundError, match="nowhere"):
            moco_jax.load(tmp_path / "nowhere")

    def test_what_the_file_does_not_hold(self, run, tmp_path):
        convert.convert(run[0], file := tmp_path / "x.safetensors")
        save_file(load_file(file), file)  # without what our own files say beside the weights
        with pytest.raises(ValueError, match=r"mean=\(\), std=\(\); expected 1 numbers"):
            moco_jax.load(file, heads=4)
        with pytest.raises(CheckpointError, match="no projection head"):
            moco_jax.load(file, heads=4, features="projection")
        with pytest.raises(CheckpointError, match=r"only the top level \(query\)"):
            moco_jax.load(file, heads=4, encoder="key")

    def test_features_that_are_not_finite_name_the_images(self, run):
        encode = moco_jax.load(run[0], batch_size=4)
        broken = jax.tree.map(lambda p: p * jnp.nan, encode.params)
        object.__setattr__(encode, "params", broken)
        with pytest.raises(NotFiniteError, match="of image 0, 1, 2, 3"):
            encode(run[1].data.train.images[:6])


def test_importing_the_package_imports_nothing_else():
    code = "import moco_jax, sys; print(sorted({'jax', 'numpy', 'flax'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=os.getcwd())  # fmt: skip
    assert out.stdout.strip() == "[]"


def test_an_encoder_is_one_line(run):
    path, *_ = run
    text = f"Encoder({path}, step 0: vit_tiny, (12, 12, 1) -> 16 of the backbone)"
    assert repr(moco_jax.load(path)) == text


def test_without_a_classifier_there_are_no_logits(run):
    with pytest.raises(CheckpointError, match="no classifier in it; a linear probe or fine-tuning"):
        moco_jax.load(run[0], features="logits")
