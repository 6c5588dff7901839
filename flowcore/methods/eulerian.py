"""Recipes of the methods that train by the Eulerian rule: the terms of their default objectives."""

import equinox as eqx
import jax.numpy as jnp

from flowcore.losses.diagonal import flow_matching
from flowcore.losses.distances import adaptive, directed, per_entry, squared
from flowcore.losses.eulerian import ayf_emd, ct, ctm, emd, esd, facm, improved_mean_flow, mean_flow, soflow
from flowcore.maps import HeunMap, RepeatedMap, TangentMap
from flowcore.methods.diagonal import diagonal_terms, distillation_terms, self_distillation_terms
from flowcore.objectives import schedules, times
from flowcore.objectives.context import conditional, teacher_velocity
from flowcore.objectives.terms import Term


def ct_terms(levels=schedules.even, steps=schedules.consistency_intervals(last=32), distance=squared):
    """Consistency training on a grid of `steps` intervals between `levels`, its point below from the data. The paper's
    grid is Karras' and grows to 150 intervals, over a training a hundred times as long as those here."""
    return (Term(ct, times.neighbours(levels, steps), distance=distance),)


def cd_terms(levels=schedules.karras, steps=17, solver=TangentMap, distance=squared):
    """Consistency distillation: the point below by one step of the teacher (Euler; the release: `EdmHeunMap`)."""
    law = times.neighbours(levels, steps)
    return (Term(eqx.Partial(ct, solver=solver), law, velocity=teacher_velocity, distance=distance),)


def two_heun_steps(v):
    """The solver that replaces the release's, which takes a step per interval of its grid."""
    return RepeatedMap(HeunMap(v), 2)


def ctm_terms(share=times.uniform, solver=two_heun_steps, diagonal=0.5, weight=100.0):
    """Jumps compared at the data, after the teacher has gone a random `share` of the way to t; and denoising, in the
    first `diagonal` of the batch. `weight` stands for the balance of the two gradients that the release keeps."""
    law = times.split(times.ordered(), share)
    jumps = Term(
        eqx.Partial(ctm, solver=solver),
        law,
        velocity=teacher_velocity,
        weight=lambda s, u, t: weight,
        share=1 - diagonal,
    )
    return (*diagonal_terms(diagonal), jumps)


def emd_terms():
    return distillation_terms(emd)


def esd_terms(diagonal=0.75):
    return self_distillation_terms(esd, times.ordered(), diagonal)


def ayf_emd_terms(law=None, warmup=schedules.linear_warmup(0.99, 0.2)):
    """`warmup` is the curriculum of r."""

    def warmed(context):
        return {"warmup": schedules.value_at(warmup, context.progress)}

    return (
        Term(ayf_emd, law or times.gap_first(times.logit_normal(-0.6, 1.6)), velocity=teacher_velocity, extra=warmed),
    )


def soflow_terms(law=None, step=schedules.exponential(1.0, 0.002), diagonal=0.5, velocity=conditional):
    """Flow matching and the finite-step equality, whose step shrinks to the share 0.002 of the jump."""
    law = times.shrinking_step(law or times.ordered(), step)
    jumps = Term(soflow, law, velocity=velocity, share=1 - diagonal)
    return (*diagonal_terms(diagonal), jumps)


def facm_terms(marginal=times.arctan(), velocity=teacher_velocity, anchor=1.0):
    """The equality at t = 0 and its anchor, flow matching, on the same points; `anchor` is the share that gets it."""
    jumps = Term(
        facm,
        times.to_data(marginal),
        velocity=velocity,
        distance=per_entry(adaptive(0.5, 1e-3)),
        weight=lambda s, t: jnp.sin(jnp.pi / 2 * s),
        draw=0,
    )
    flow = Term(
        flow_matching, times.diagonal(marginal), velocity=velocity, distance=per_entry(directed), share=anchor, draw=0
    )
    return (flow, jumps) if anchor else (jumps,)


def mean_flow_terms(marginal=times.uniform, diagonal=0.5, velocity=conditional):
    """One term; `diagonal` is the share of rows with s = t."""
    return (Term(mean_flow, times.partly_diagonal(times.ordered(marginal), diagonal), velocity=velocity),)


def improved_mean_flow_terms(marginal=times.uniform, diagonal=0.5, velocity=conditional):
    """As MeanFlow."""
    law = times.partly_diagonal(times.ordered(marginal), diagonal)
    return (Term(improved_mean_flow, law, velocity=velocity),)
