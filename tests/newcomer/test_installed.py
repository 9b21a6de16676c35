"""pip install, no checkout: recipes, training, the commands and the report."""

import pytest

from moco_jax import __version__, results
from tests.tiny import write_npz

pytestmark = pytest.mark.newcomer

TINY = (
    "--config.model.name=vit_tiny", "--config.model.vit.width=16", "--config.model.vit.depth=2",
    "--config.model.vit.heads=2", "--config.model.vit.patch=4", "--config.data.image_size=12",
    "--config.data.batch_size=16", "--config.data.eval_batch_size=16", "--config.epochs=2",
    "--config.optim.warmup_epochs=1", "--config.knn.k=5",
)  # fmt: skip


def test_a_run_by_a_packaged_recipe_and_what_comes_after(run, python, tmp_path):
    source = write_npz(tmp_path / "x.npz", 80, channels=3, test_images=16)
    where = run("-c", "import moco_jax; print(moco_jax.__file__)").strip()
    assert where.startswith(str(python.parents[1]))
    assert run("-m", "moco_jax", "--version").startswith(f"moco_jax {__version__} (jax ")
    assert "configs/v3_vit.py" in run("-m", "moco_jax", "configs")
    said = run("-m", "moco_jax.main", "--config=configs/v3_vit.py:s16", "--workdir=runs/first",
               f"--config.data.source={source}", *TINY)  # fmt: skip
    package = f"{where.removesuffix('__init__.py')}configs/v3_vit.py:s16"
    assert f"Config: {package}, of the package\n" in said
    assert (tmp_path / "runs/first/report.html").stat().st_size > 100_000
    assert {r["version"] for r in results.read(tmp_path / "runs/first")} == {__version__}
    said = run("-m", "moco_jax", "study", "configs/study/momentum.py:demo", "--workdir=m", "--list")
    assert "configs/study/momentum.py:demo, of the package" in said
    assert said.count("--config=configs/demo.py:short,m=0") == 8
    run("-m", "moco_jax", "features", "--checkpoint=runs/first", "--out=f.npz")
    assert "raw pixels" in run("-m", "moco_jax", "knn", "--checkpoint=runs/first", "--k=5")
    run("-m", "moco_jax", "convert", "runs/first", "encoder.safetensors")
    run("-m", "moco_jax", "report", "runs/first", "--out=again.html")
    assert all((tmp_path / name).exists() for name in ("f.npz", "again.html"))


def test_a_recipe_copied_and_edited(run, tmp_path):
    write_npz(tmp_path / "x.npz", 32, channels=3)
    run("-m", "moco_jax", "configs", "v3_vit", "--copy=configs/mine.py")
    mine = tmp_path / "configs/mine.py"
    mine.write_text(mine.read_text().replace("c.epochs = 300.0", "c.epochs = 1.0"))
    said = run("-m", "moco_jax.main", "--config=configs/mine.py:s16", "--workdir=run",
               "--config.data.source=npz:x.npz", *TINY[:-3], "--config.optim.warmup_epochs=0",
               "--config.evals.names=()")  # fmt: skip
    assert "Config: configs/mine.py:s16\n" in said
    assert "2 steps: 1 epochs of 2.0 steps" in said
    missing = run("-m", "moco_jax.main", "--config=configs/v3_vitt.py", "--workdir=run", code=2)
    assert "did you mean 'configs/v3_vit.py'" in missing
