"""What the user says of a file beside it, and how a message names these options."""

from collections.abc import Mapping
from typing import NamedTuple

# What a user of the commands or of Python writes.
OPTIONS = {
    "arch": "--arch (arch=...)",
    "heads": "--heads (heads=...)",
    "encoder": "--encoder (encoder=...)",
    "partial": "--partial (partial=True)",
}


class Hints(NamedTuple):
    """What a file may leave open.

    Attributes:
      arch: key of `arch.ARCHS`.
      heads: attention heads of a ViT.
      encoder: which one of several; see `recognize.choose`.
      norm_eps: epsilon of a ViT's LayerNorm.
      official: whether MoCo v3's own ViTs are meant, whose S has 12 heads.
      partial: take what fits.
      options: how the user at hand writes each of them; those that he lacks are absent.
    """

    arch: str | None = None
    heads: int | None = None
    encoder: str | None = None
    norm_eps: float | None = None
    official: bool = False
    partial: bool = False
    options: Mapping[str, str] = OPTIONS

    def offer(self, option: str, text: str) -> str:
        """`text`, with the option in the place of '{}'; empty where the user has no such option."""
        return text.format(self.options[option]) if option in self.options else ""
