"""Ablations of the papers as arguments of their configs."""

import importlib

import pytest

from moco_jax.errors import InputError

# (config, argument): options and their values; all others stay those of the variant.
CHANGED = {
    ("v3_vit", "b16,pos=learned"): {"model.vit.position": "learned"},
    ("v3_vit", "b16,pos=none"): {"model.vit.position": "none"},
    ("v3_vit", "b16,pool=gap"): {"model.vit.pool": "avg"},
    ("v3_vit", "b16,pool=gap_ln"): {"model.vit.pool": "avg_norm"},
    ("v3_vit", "b16,norm=batch"): {"model.vit.norm": "batch"},
    ("v3_vit", "b16,head_bn=none"): {
        "method.projector.bn": False,
        "method.projector.last_bn": False,
        "method.predictor.bn": False,
        "method.predictor.last_bn": False,
    },
    ("v3_vit", "predictor=none"): {"method.predictor.layers": 0},
    ("v3_vit", "b16,m=0"): {"method.ema": 0.0, "method.ema_schedule": "constant"},
    ("v3_vit", "b16,m=0.9"): {"method.ema": 0.9},
    ("v3_vit", "b16,freeze_patch=False"): {"optim.freeze": ()},
    ("v3_vit", "b16,optimizer=lamb,lr=8e-4"): {
        "optim.name": "lamb",
        "optim.base_lr": 8e-4,
        "optim.exclude_1d": True,
    },
    ("v3_vit", "b16,optimizer=lars"): {
        "optim.name": "lars",
        "optim.base_lr": 0.3,
        "optim.weight_decay": 1e-6,
        "optim.exclude_1d": True,
    },
    ("v3_vit", "b16,batch=1024,lr=5e-5"): {"data.batch_size": 1024, "optim.base_lr": 5e-5},
    ("v2_r50", "tau=0.1"): {"method.temperature": 0.1},
    ("v2_r50", "800,schedule=step"): {"optim.schedule": "step"},
    ("v1_r50", "K=1024,m=0.9"): {"method.queue_size": 1024, "method.ema": 0.9},
    ("v1_r50", "shuffle_bn=off"): {"method.shuffle_bn": False},
    ("demo", "short,m=0"): {"method.ema": 0.0},
    ("demo", "schedule=step"): {"optim.schedule": "step", "optim.step_epochs": (48, 64)},
    ("demo", "long,mlp=off"): {"method.projector.layers": 1},
    ("v2_r18_cifar10", "200,mlp=off"): {},
    ("v2_r18_cifar10", "400,mlp=on,K=512"): {
        "method.projector.layers": 2,
        "method.projector.hidden": 0,
        "method.queue_size": 512,
    },
    ("end_to_end", "demo,batch=512"): {"data.batch_size": 512},
    ("memory_bank", "r50_nce,K=1024,tau=0.1"): {
        "method.queue_size": 1024,
        "method.temperature": 0.1,
    },
    ("v3_vit", "demo,freeze_patch=True"): {},
    ("v3_vit", "cifar10,predictor=none"): {"method.predictor.layers": 0},
}


def get(name, *argument):
    return importlib.import_module(f"configs.{name}").get_config(*argument)


def options(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from options(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize(("name", "argument"), CHANGED)
def test_an_ablation_changes_what_it_names_and_nothing_else(name, argument):
    variant = argument.split(",")[0]
    before = dict(options(get(name, *([] if "=" in variant else [variant])).to_dict()))
    after = dict(options(get(name, argument).to_dict()))
    changed = {key: value for key, value in after.items() if value != before[key]}
    assert changed == CHANGED[name, argument]


def test_v2_without_its_ingredients_is_v1():
    assert get("v2_r50", "mlp=off,aug=v1,tau=0.07,schedule=step") == get("v1_r50")


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("v3_vit", "b17", "did you mean 'b16'"),
        ("v3_vit", "b16,position=none", "ablation='position' is not one of .*pos"),
        ("v3_vit", "b16,pos=learnt", "pos='learnt' is not one of learned, none, sincos"),
        ("v3_vit", "b16,lr=fast", "optim.base_lr='fast': expected a number"),
        ("v3_vit", "b16,batch=1.5", "data.batch_size='1.5': expected a whole number"),
        ("v3_vit", "b16,pos", "'pos' in 'b16,pos': expected NAME=VALUE, with NAME one of batch"),
        ("v2_r50", "tau=0.1,tau=0.2", "names an ablation twice"),
        ("v1_r50", "mlp=off", "ablation='mlp' is not one of K, batch, lr, m, shuffle_bn, tau"),
    ],
)
def test_what_is_not_known_is_refused(name, argument, message):
    with pytest.raises(InputError, match=message):
        get(name, argument)
