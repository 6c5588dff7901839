"""Recipes of the methods that train by the Lagrangian rule: the terms of their default objectives."""

from flowcore.losses.diagonal import flow_matching
from flowcore.losses.distances import adaptive, per_entry, squared
from flowcore.losses.lagrangian import ayf_lmd, free_flow, free_flow_auxiliary, lmd, lsd, pid
from flowcore.methods.diagonal import distillation_terms, self_distillation_terms
from flowcore.objectives import schedules, times
from flowcore.objectives.context import from_noise, independent_noise, sample_velocity, self_velocity, teacher_velocity
from flowcore.objectives.terms import Term


def lmd_terms():
    return distillation_terms(lmd)


def lsd_terms(diagonal=0.75):
    return self_distillation_terms(lsd, times.ordered(), diagonal)


def ayf_lmd_terms(law=None, weight=lambda s, t: (t - s) ** 2):
    """The weight (t - s)^2 is what a finite step of the paper leaves; the paper's own weight is unknown to us."""
    return (
        Term(ayf_lmd, law or times.gap_first(times.logit_normal(-0.6, 1.6)), velocity=teacher_velocity, weight=weight),
    )


def tvm_terms(law=None, marginal=times.logit_normal(-0.4, 1.0)):
    """LSD's equality on the full batch, with the velocity of an averaged target (give `fit` a `target_decay`, 0.99 in
    the paper), beside flow matching on the same noise."""
    law = law or times.gap_first(times.logit_normal(-0.8, 1.0), times.truncated_logit_normal(-0.4, 1.0))
    flow = Term(flow_matching, times.diagonal(marginal), draw=0)
    return (flow, Term(lsd, law, velocity=self_velocity, draw=0))


def free_flow_terms(prediction=0.75, law=None, marginal=times.logit_normal(0.8, 1.0), power=1.0):
    """From noise alone: `prediction` of the batch along the map's own path, the rest corrects its end, and an auxiliary
    network (the model is `WithAuxiliary`) learns the velocity of the map's samples. `power` is the weight's."""

    def with_auxiliary(context):
        return {"auxiliary": context.target.auxiliary.velocity, **independent_noise(context)}

    predicted = Term(
        ayf_lmd,
        law or times.from_source(1.0),
        velocity=teacher_velocity,
        start=from_noise,
        distance=per_entry(adaptive(power, 1e-2)),
        share=prediction,
    )
    beside = {"start": from_noise, "distance": per_entry(squared), "share": 1 - prediction, "draw": 1}
    law = times.correction(marginal)
    correction = Term(free_flow, law, velocity=teacher_velocity, extra=with_auxiliary, **beside)
    follow = Term(free_flow_auxiliary, law, velocity=sample_velocity, extra=independent_noise, **beside)
    return (predicted, correction, follow)


def pid_terms(levels=schedules.karras, steps=249, distance=squared):
    """From noise alone, on a grid of `steps` intervals."""
    law = times.chords(levels, steps)
    return (Term(pid, law, velocity=teacher_velocity, start=from_noise, distance=distance),)
