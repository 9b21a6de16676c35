"""Opening a data set by its specification, and what the log says of it."""

import logging
import pkgutil
from collections.abc import Mapping
from typing import Any

from moco_jax import config
from moco_jax.data import summary
from moco_jax.errors import InputError

log = logging.getLogger(__name__)


def open_by(option: str, spec: str, openers: Mapping[str, str]) -> Any:
    """What the opener of a kind gives: the splits of a set, train and test, which may be None.

    Args:
      option: what an error calls the specification.
      spec: `KIND:PATH`.
      openers: `KIND:PATH`, as shown to people -> `module:function` of PATH.

    Raises:
      InputError: an unknown kind, nothing after it, or from the opener.
    """
    kind, _, where = spec.partition(":")
    forms = {form.partition(":")[0]: form for form in openers}
    form = forms[config.choose(option, kind, forms)]
    if not where.strip():
        raise InputError(f"{option} {spec!r}: expected {form!r}")
    splits = pkgutil.resolve_name(openers[form])(where)
    log.info("Data: %s", splits.train.name)
    understood = (None if part is None else part.understood for part in splits)
    for heading, text in summary.facts(*understood).items():
        log.info("  %s: %s", heading, text)
    return splits
