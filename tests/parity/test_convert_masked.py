"""Pre-training by masked images: the encoder is read, what only masks need is left out and said."""

import argparse

import pytest
import torch
from torch import nn

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.models.vision_transformer import Block
from transformers import ViTConfig, ViTForMaskedImageModeling, ViTMAEConfig, ViTMAEForPreTraining

from moco_jax import convert
from moco_jax.errors import CheckpointError
from tests.parity.test_convert_others import SIZE, assert_features, images, normalized, under, vit
from tests.parity.torch_weights import nchw, randomize

pytestmark = pytest.mark.parity

SIZES = {
    "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "image_size": SIZE,
    "num_hidden_layers": 2, "patch_size": 16,
}  # fmt: skip


def mae(model):
    """A file of MAE's main_pretrain.py."""
    parts = {"decoder_embed": nn.Linear(192, 64), "decoder_norm": nn.LayerNorm(64)}
    parts |= {f"decoder_blocks.{i}": Block(64, 4) for i in range(2)}
    parts |= {"decoder_pred": nn.Linear(64, 768)}
    state = model.state_dict() | {"mask_token": torch.ones(1, 1, 64)}
    state |= {"decoder_pos_embed": torch.ones(1, 17, 64)}
    for name, part in parts.items():
        state |= under(f"{name}.", part)
    adamw = torch.optim.AdamW(model.parameters()).state_dict()
    args = argparse.Namespace(model="mae_vit_tiny_patch16", mask_ratio=0.75)
    return {"model": state, "optimizer": adamw, "epoch": 799, "scaler": {}, "args": args}


def simmim(model):
    state = under("encoder.", model) | under("decoder.0.", nn.Conv2d(192, 768, 1))
    return {"model": state | {"encoder.mask_token": torch.ones(1, 1, 192)}, "epoch": 9}


def ibot(model):
    state = under("backbone.", model) | {"backbone.masked_embed": torch.ones(1, 192)}
    return {"student": under("backbone.", vit(1)), "teacher": state, "epoch": 9}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (mae, "decoder_blocks, decoder_embed, decoder_norm, decoder_pos_embed, decoder_pred, mask_"
              "token), optimizer, scaler, args"),
        (simmim, "what masked images need (mask_token)"),
        (ibot, "what masked images need (masked_embed)"),
    ],
)  # fmt: skip
def test_files_of_masked_image_modelling(make, told, tmp_path, caplog):
    model = vit(0, num_classes=0)
    torch.save(make(model), tmp_path / "file")
    with caplog.at_level("INFO", "moco_jax"):
        assert_features(tmp_path / "file", model)
    assert told in caplog.text.partition("left out: ")[2]
    assert "training file of another program" in caplog.text


@pytest.mark.parametrize("kind", ["mae", "token"])
def test_folders_of_masked_image_modelling(kind, tmp_path, caplog):
    """MAE of transformers looks at every patch where nothing is masked."""
    if kind == "mae":
        decoder = {"decoder_hidden_size": 64, "decoder_num_hidden_layers": 1}
        heads = {"decoder_num_attention_heads": 4, "decoder_intermediate_size": 128}
        c = ViTMAEConfig(mask_ratio=0.0, **SIZES, **decoder, **heads)
        model = ViTMAEForPreTraining(c)
    else:
        model = ViTForMaskedImageModeling(ViTConfig(**SIZES))
    randomize(model, 0).eval().save_pretrained(tmp_path / "f")
    with torch.no_grad():
        want = model.vit(nchw(normalized(images()))).last_hidden_state[:, 0].numpy()
    with caplog.at_level("INFO", "moco_jax"):
        assert_features(tmp_path / "f", want)
    assert "what masked images need (decoder" in caplog.text


def test_other_parts_are_no_decoder(tmp_path):
    state = vit(0, num_classes=0).state_dict() | {"blocks.0.mask_token": torch.ones(1)}
    torch.save(state | {"encoder_decoder.weight": torch.ones(1)}, tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"unexpected: blocks.0.mask_token\n.*encoder_decod"):
        convert.read(tmp_path / "file")
