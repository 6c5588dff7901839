"""Recipes of the methods that train by the compositional rule: the terms of their default objectives."""

from flowcore.losses.compositional import fmm, psd
from flowcore.losses.diagonal import flow_matching
from flowcore.methods.diagonal import self_distillation_terms
from flowcore.objectives import times
from flowcore.objectives.context import teacher_target, teacher_velocity
from flowcore.objectives.terms import Term


def shortcut_terms(bootstrap=0.25, levels=7):
    """Jumps of length 2^-n split half way on the share `bootstrap`, which is the paper's (the release: 1/8); its
    targets are those of an average (give `fit` a `target_decay`, 0.999 there)."""
    return self_distillation_terms(psd, times.dyadic(levels), 1 - bootstrap)


def split_mean_flow_terms(boundary=0.5, share=times.uniform):
    """The teacher's velocity on the share `boundary` of the batch, jumps split anywhere on the rest. (The paper deals
    whole batches to one or the other.)"""
    velocity = Term(flow_matching, times.diagonal(), velocity=teacher_velocity, share=boundary)
    return (velocity, Term(psd, times.split(times.ordered(), share), share=1 - boundary))


def psd_terms(diagonal=0.75, share=times.uniform):
    """`share` None splits every jump half way (PSD-M); the default splits it anywhere (PSD-U)."""
    return self_distillation_terms(psd, times.split(times.ordered(), share), diagonal)


def fmm_terms(law=None):
    """The derivative of the way back, at times in both orders: the term that the release trains."""
    return (Term(fmm, law or times.either_way()),)


def pfmm_terms():
    """Two jumps of a frozen map as one, weighted by (s - t)^2: the paper's residual in F."""
    return (Term(psd, times.split(times.ordered()), target=teacher_target, weight=lambda s, u, t: (s - t) ** 2),)
