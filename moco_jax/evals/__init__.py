"""The registry of evaluations, of which `config.evals.names` chooses: a new one is a line here."""

from moco_jax.config import choose
from moco_jax.evals import classification, knn_monitor, unchanged, unlabelled
from moco_jax.evals.evaluation import Context, Evaluation, Watch

EVALUATIONS: dict[str, Evaluation] = {
    "knn": knn_monitor.KNN,
    "rank_me": unlabelled.RANK_ME,
    "alignment_uniformity": unlabelled.ALIGNMENT_UNIFORMITY,
    "backbone_std": unlabelled.BACKBONE_STD,
    "unchanged": unchanged.UNCHANGED,
    "accuracy": classification.ACCURACY,
}


def make_watches(
    context: Context, steps_per_epoch: float, own: Evaluation | None = None
) -> list[Watch]:
    """The measurements of a run, in the order of their names.

    Args:
      context: of the run.
      steps_per_epoch: may be fractional.
      own: of the run's protocol, for which those of `evals.names` have no meaning.

    Raises:
      InputError: an unknown name.
    """
    names, watches = context.config.evals.names, []
    chosen = [EVALUATIONS[choose("evals.names", name, EVALUATIONS)] for name in names]
    for evaluation in [own] if own else chosen:
        if measure := evaluation.make(context):
            every = evaluation.every_epochs(context.config) * steps_per_epoch
            watches.append(Watch(every, measure))
    return watches
