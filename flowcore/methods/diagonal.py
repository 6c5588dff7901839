"""The recipe on the diagonal, flow matching, and the two shapes that most recipes have: distillation from a teacher,
and self-distillation, with flow matching on a share of the batch."""

from flowcore.losses.diagonal import flow_matching
from flowcore.objectives import times
from flowcore.objectives.context import conditional, self_velocity, teacher_velocity
from flowcore.objectives.terms import Term


def flow_matching_terms(marginal=times.uniform, velocity=conditional):
    """Velocity only: the denoiser that is everybody's teacher and baseline (not a flow-map method, so not a row)."""
    return (Term(flow_matching, times.diagonal(marginal), velocity=velocity),)


def diagonal_terms(share):
    """Flow matching on that share of the batch: what a method that is its own teacher learns the velocity from."""
    return (Term(flow_matching, times.diagonal(), share=share),) if share else ()


def distillation_terms(equality):
    """One term at ordered times, its velocity a teacher's."""
    return (Term(equality, times.ordered(), velocity=teacher_velocity),)


def self_distillation_terms(equality, law, diagonal):
    """Flow matching on a share of the batch, the equality with the map's own velocity on the rest.

    Reference: Boffi et al. 2025, algorithm 1; the split and its default are the release's.
    """
    return (*diagonal_terms(diagonal), Term(equality, law, velocity=self_velocity, share=1 - diagonal))
