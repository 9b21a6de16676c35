"""What tiny runs gave once: losses of 20 steps and checksums at the end, on one device.

    python -m tests.golden OUT.json     # measures; compare before and after a change

`tests/golden.json` holds the losses, `tests/unit/test_golden.py` compares with them.
"""

import json
import os
import sys
import tempfile

from configs import v3_r50
from tests.tiny import probe_config, tiny_config, write_npz


def resnet_config(source):
    """MoCo v3's recipe for a ResNet, on a small one."""
    c = tiny_config("v3", source)
    recipe = v3_r50.get_config()
    c.method.update(bn_group_size=recipe.method.bn_group_size, temperature=1.0)
    c.method.projector.update(recipe.method.projector.to_dict() | {"hidden": 16, "out": 8})
    c.method.predictor.update(recipe.method.predictor.to_dict() | {"hidden": 16, "out": 8})
    c.optim = recipe.optim
    c.optim.warmup_epochs = 0.2
    c.model.name = "resnet18"
    c.model.resnet.update(stem="cifar", width=1 / 16, zero_init_residual=True)
    return c


CONFIGS = {
    "v1": lambda source: tiny_config("v1", source),
    "v2": lambda source: tiny_config("v2", source),
    "v3_resnet": resnet_config,
    "v3_vit": lambda source: tiny_config("v3", source),
    "probe": probe_config,
}


def measure(name, folder):
    """Losses of 20 steps and the checksum of every array after them, on one device."""
    import jax

    from moco_jax import mesh
    from moco_jax.checkpoint import checksums_of, named
    from moco_jax.training import experiment

    source = write_npz(f"{folder}/images.npz", test_images=16)
    make_mesh = mesh.make_mesh
    mesh.make_mesh = lambda **options: make_mesh(jax.devices()[:1], **options)
    try:
        x = experiment.build(CONFIGS[name](source))
        state, step, losses = experiment.fresh_state(x), None, []
        with experiment.train_batches(x, 0) as batches:
            for _ in range(20):
                batch = batches.get()
                step = step or experiment.make_step(x).lower(state, batch).compile()
                state, metrics = step(state, batch)
                losses.append(float(metrics["loss"]))
    finally:
        mesh.make_mesh = make_mesh
    return {"losses": losses, "checksums": checksums_of(named(state))}


def main(out):
    """Measures all and writes them."""
    found = {}
    for name in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(name, folder)
    with open(out, "w") as file:
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main(sys.argv[1])
