"""The landscape as data: one row per method of the survey's table, in its order.

A row knows what the method is (`rule`, `setting`, `output`, `notes`, the survey's `cost` in forward passes), which
notebook replicates it (`paper`), and how its default objective is built (`terms`). README, tests, the command line
and the notebooks all read this table; a row whose `terms` is None is not here yet and every reader copes.

Reference: Dieleman 2026, "Learning the integral of a diffusion model", section 5.6.
"""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp

from flowcore import times
from flowcore.losses.compositional import fmm, psd
from flowcore.losses.diagonal import flow_matching
from flowcore.losses.distances import adaptive, directed, per_entry, squared
from flowcore.losses.eulerian import ayf_emd, ct, ctm, emd, esd, facm, improved_mean_flow, mean_flow, soflow
from flowcore.losses.lagrangian import ayf_lmd, free_flow, free_flow_auxiliary, lmd, lsd, pid
from flowcore.maps import HeunMap, RepeatedMap, TangentMap
from flowcore.terms import (
    Objective,
    Term,
    conditional,
    fresh_noise,
    from_noise,
    of_samples,
    own,
    pretrained,
    taught,
)


@dataclass(frozen=True)
class Method:
    """One row of the table. `name` is the survey's acronym where it has one; `terms()` returns the tuple of `Term`s of
    the default objective."""

    name: str
    title: str
    paper: str
    rule: str
    setting: str
    output: str
    notes: str
    cost: int
    terms: Callable[..., tuple[Term, ...]] | None = None

    @property
    def here(self) -> bool:
        """Whether the method can be trained: its equality is written."""
        return self.terms is not None


def flow_matching_terms(marginal=times.uniform, velocity=conditional):
    """Velocity only: the denoiser that is everybody's teacher and baseline (not a flow-map method, so not a row)."""
    return (Term(flow_matching, times.diagonal(marginal), velocity=velocity),)


def mean_flow_terms(marginal=times.uniform, diagonal=0.5, velocity=conditional):
    """One term; `diagonal` is the share of rows with s = t."""
    return (Term(mean_flow, times.partly_diagonal(times.ordered(marginal), diagonal), velocity=velocity),)


def improved_mean_flow_terms(marginal=times.uniform, diagonal=0.5, velocity=conditional):
    """As MeanFlow."""
    law = times.partly_diagonal(times.ordered(marginal), diagonal)
    return (Term(improved_mean_flow, law, velocity=velocity),)


def distilled(equality):
    """One term at ordered times, its velocity a teacher's."""
    return (Term(equality, times.ordered(), velocity=taught),)


def self_distilled(equality, law, diagonal):
    """Flow matching on a share of the batch, the equality with the map's own velocity on the rest.

    Reference: Boffi et al. 2025, algorithm 1; the split and its default are the release's.
    """
    return (*grounded(diagonal), Term(equality, law, velocity=own, share=1 - diagonal))


def grounded(share):
    """Flow matching on that share of the batch: what a method that is its own teacher learns the velocity from."""
    return (Term(flow_matching, times.diagonal(), share=share),) if share else ()


def lmd_terms():
    return distilled(lmd)


def emd_terms():
    return distilled(emd)


def lsd_terms(diagonal=0.75):
    return self_distilled(lsd, times.ordered(), diagonal)


def esd_terms(diagonal=0.75):
    return self_distilled(esd, times.ordered(), diagonal)


def psd_terms(diagonal=0.75, share=times.uniform):
    """`share` None splits every jump half way (PSD-M); the default splits it anywhere (PSD-U)."""
    return self_distilled(psd, times.split(times.ordered(), share), diagonal)


def shortcut_terms(bootstrap=0.25, levels=7):
    """Jumps of length 2^-n split half way on the share `bootstrap`, which is the paper's (the release: 1/8); its
    targets are those of an average (give `fit` a `target_decay`, 0.999 there)."""
    return self_distilled(psd, times.dyadic(levels), 1 - bootstrap)


def split_mean_flow_terms(boundary=0.5, share=times.uniform):
    """The teacher's velocity on the share `boundary` of the batch, jumps split anywhere on the rest. (The paper deals
    whole batches to one or the other.)"""
    velocity = Term(flow_matching, times.diagonal(), velocity=taught, share=boundary)
    return (velocity, Term(psd, times.split(times.ordered(), share), share=1 - boundary))


def ct_terms(levels=times.even, steps=times.growing(last=32), distance=squared):
    """Consistency training on a grid of `steps` intervals between `levels`, its point below from the data. The paper's
    grid is Karras' and grows to 150 intervals, over a training a hundred times as long as those here."""
    return (Term(ct, times.neighbours(levels, steps), distance=distance),)


def cd_terms(levels=times.karras, steps=17, solver=TangentMap, distance=squared):
    """Consistency distillation: the point below by one step of the teacher (Euler; the release: `EdmHeunMap`)."""
    law = times.neighbours(levels, steps)
    return (Term(eqx.Partial(ct, solver=solver), law, velocity=taught, distance=distance),)


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
        velocity=taught,
        weight=lambda s, u, t: weight,
        share=1 - diagonal,
    )
    return (*grounded(diagonal), jumps)


def soflow_terms(law=None, step=times.exponential(1.0, 0.002), diagonal=0.5, velocity=conditional):
    """Flow matching and the finite-step equality, whose step shrinks to the share 0.002 of the jump."""
    law = times.shrinking(law or times.ordered(), step)
    jumps = Term(soflow, law, velocity=velocity, share=1 - diagonal)
    return (*grounded(diagonal), jumps)


def facm_terms(marginal=times.arctan(), velocity=taught, anchor=1.0):
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


def ayf_lmd_terms(law=None, weight=lambda s, t: (t - s) ** 2):
    """The weight is that of the paper's finite step."""
    return (Term(ayf_lmd, law or times.gapped(times.logit_normal(-0.6, 1.6)), velocity=taught, weight=weight),)


def ayf_emd_terms(law=None, warmup=times.rising(0.99, 0.2)):
    """`warmup` is the curriculum of r."""

    def warmed(hand):
        return {"warmup": times.now(warmup, hand.progress)}

    return (Term(ayf_emd, law or times.gapped(times.logit_normal(-0.6, 1.6)), velocity=taught, extra=warmed),)


def tvm_terms(law=None, marginal=times.logit_normal(-0.4, 1.0)):
    """LSD's equality on the full batch, with the velocity of an averaged target (give `fit` a `target_decay`, 0.99 in
    the paper), beside flow matching on the same noise."""
    law = law or times.gapped(times.logit_normal(-0.8, 1.0), times.truncated_logit_normal(-0.4, 1.0))
    flow = Term(flow_matching, times.diagonal(marginal), draw=0)
    return (flow, Term(lsd, law, velocity=own, draw=0))


def free_flow_terms(prediction=0.75, law=None, marginal=times.logit_normal(0.8, 1.0), power=1.0):
    """From noise alone: `prediction` of the batch along the map's own path, the rest corrects its end, and a companion
    (the model is `Accompanied`) learns the velocity of the map's samples. `power` is the weight's."""

    def with_companion(hand):
        return {"auxiliary": hand.target.companion.velocity, **fresh_noise(hand)}

    predicted = Term(
        ayf_lmd,
        law or times.from_source(1.0),
        velocity=taught,
        start=from_noise,
        distance=per_entry(adaptive(power, 1e-2)),
        share=prediction,
    )
    beside = {"start": from_noise, "distance": per_entry(squared), "share": 1 - prediction, "draw": 1}
    law = times.corrected(marginal)
    correction = Term(free_flow, law, velocity=taught, extra=with_companion, **beside)
    follow = Term(free_flow_auxiliary, law, velocity=of_samples, extra=fresh_noise, **beside)
    return (predicted, correction, follow)


def pid_terms(levels=times.karras, steps=249, distance=squared):
    """From noise alone, on a grid of `steps` intervals."""
    law = times.chords(levels, steps)
    return (Term(pid, law, velocity=taught, start=from_noise, distance=distance),)


def fmm_terms(law=None):
    """The derivative of the way back, at times in both orders: the term that the release trains."""
    return (Term(fmm, law or times.either_way()),)


def pfmm_terms():
    """Two jumps of a frozen map as one, weighted by (s - t)^2: the paper's residual in F."""
    return (Term(psd, times.split(times.ordered()), target=pretrained, weight=lambda s, u, t: (s - t) ** 2),)


L, E, C = "Lagrangian", "Eulerian", "compositional"
DISTILL, SELF, MARGINAL = "distillation", "self-distillation", "marginal from conditional"

METHODS: tuple[Method, ...] = (
    Method("LMD", "Lagrangian Map Distillation", "flow_map_matching", L, DISTILL, "V", "JVP, no SG", 9, lmd_terms),
    Method("LSD", "Lagrangian Self-distillation", "self_distillation", L, SELF, "V", "SG on target", 10, lsd_terms),
    Method("AYF-LMD", "Align Your Flow (LMD)", "align_your_flow", L, DISTILL, "V", "SG on JVP", 6, ayf_lmd_terms),
    Method(
        "TVM", "Terminal Velocity Matching", "terminal_velocity_matching", L, SELF, "V", "SG on target", 10, tvm_terms
    ),
    Method("FreeFlow", "FreeFlow", "free_flow", L, DISTILL, "V", "s=1 only, SG on FD + aux", 12, free_flow_terms),
    Method(
        "PID",
        "Physics Informed Distillation",
        "physics_informed_distillation",
        L,
        DISTILL,
        "F",
        "s=1 only, FD, SG on target",
        7,
        pid_terms,
    ),
    Method("CT", "Consistency Training", "consistency_models", E, SELF, "F", "t=0 only", 4, ct_terms),
    Method("CD", "Consistency Distillation", "consistency_models", E, DISTILL, "F", "t=0 only", 5, cd_terms),
    Method(
        "CTM",
        "Consistency Trajectory Models",
        "consistency_trajectory_models",
        E,
        DISTILL,
        "F",
        "loss evaluation at t=0",
        7,
        ctm_terms,
    ),
    Method("EMD", "Eulerian Map Distillation", "flow_map_matching", E, DISTILL, "V", "JVP, no SG", 7, emd_terms),
    Method("ESD", "Eulerian Self-distillation", "self_distillation", E, SELF, "V", "SG on spatial JVP", 10, esd_terms),
    Method("AYF-EMD", "Align Your Flow (EMD)", "align_your_flow", E, DISTILL, "V", "SG on JVP", 6, ayf_emd_terms),
    Method("SoFlow", "SoFlow", "soflow", E, SELF, "V", "SG on FD", 7, soflow_terms),
    Method(
        "FACM",
        "Flow-anchored Consistency Models",
        "flow_anchored_consistency",
        E,
        DISTILL,
        "V",
        "SG on JVP",
        8,
        facm_terms,
    ),
    Method("MF", "MeanFlow", "mean_flow", E, MARGINAL, "V", "SG on target", 4, mean_flow_terms),
    Method(
        "iMF",
        "Improved MeanFlow",
        "improved_mean_flow",
        E,
        MARGINAL,
        "V",
        "SG on target",
        5,
        improved_mean_flow_terms,
    ),
    Method("Shortcut", "Shortcut Models", "shortcut_models", C, SELF, "V", "SG on target", 8, shortcut_terms),
    Method(
        "SplitMeanFlow",
        "SplitMeanFlow",
        "split_mean_flow",
        C,
        DISTILL,
        "V",
        "SG on target",
        9,
        split_mean_flow_terms,
    ),
    Method("PSD", "Progressive Self-distillation", "self_distillation", C, SELF, "V", "SG on target", 8, psd_terms),
    Method("FMM", "Flow Map Matching", "flow_map_matching", C, MARGINAL, "V", "JVP, no SG", 9, fmm_terms),
    Method(
        "PFMM", "Progressive Flow Map Matching", "flow_map_matching", C, DISTILL, "V", "Flow map teacher", 5, pfmm_terms
    ),
)


def method(name: str) -> Method:
    """The row of that name, in any case. Raises KeyError naming the rows there are."""
    for row in METHODS:
        if row.name.lower() == name.lower():
            return row
    raise KeyError(f"no method {name!r} in the table; there are {', '.join(row.name for row in METHODS)}")


def objective(row: Method, **settings) -> Objective:
    """The default objective of a row; `settings` go to its `terms`. Raises ValueError when it is not here yet."""
    if not row.here:
        raise ValueError(f"{row.name} is in the survey's table but not here yet: {row.paper} has no equality")
    return Objective(row.terms(**settings))
