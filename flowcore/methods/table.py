"""The landscape as data: one row per method of the survey's table, in its order, and nothing else.

A row knows what the method is (`rule`, `setting`, `output`, `notes`, the survey's `cost` in forward passes), which
notebook replicates it (`paper`), and how its default objective is built (`terms`, a recipe in the file of its rule).
README, tests, the command line and the notebooks all read this table.

Reference: Dieleman 2026, "Learning the integral of a diffusion model", section 5.6.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flowcore.methods.compositional import fmm_terms, pfmm_terms, psd_terms, shortcut_terms, split_mean_flow_terms
from flowcore.methods.eulerian import (
    ayf_emd_terms,
    cd_terms,
    ct_terms,
    ctm_terms,
    emd_terms,
    esd_terms,
    facm_terms,
    improved_mean_flow_terms,
    mean_flow_terms,
    soflow_terms,
)
from flowcore.methods.lagrangian import ayf_lmd_terms, free_flow_terms, lmd_terms, lsd_terms, pid_terms, tvm_terms
from flowcore.objectives.terms import Objective, Term


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
    terms: Callable[..., tuple[Term, ...]]


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
    """The default objective of a row; `settings` go to its `terms`. Raises ValueError for what is no row."""
    if not isinstance(row, Method):
        raise ValueError(f"objective takes a row of the table: flowcore.objective(flowcore.method({row!r}))")
    return Objective(row.terms(**settings))
