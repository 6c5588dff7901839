r"""Equalities from the Lagrangian rule: as its target time runs, the end of a jump moves with the velocity found there.

    d/dt F(x_s, s, t) = v(F(x_s, s, t), t)          one JVP with tangent (0, 0, 1)

Each takes `(model, x, s, t, *, v, target)` for one example and returns the two sides, both like x. `v(x, t)` is the
velocity source, `target` a trusted copy of the map. The VALUES of these siblings coincide to rounding; they differ in
the path of the gradient:

    lmd    through dF/dt and through the point at which v is asked (v is a frozen teacher's)
    lsd    through dF/dt only (v is the map's own)

None is linear in a velocity at x_s, so the conditional velocity may not be used.
"""

from jax.lax import stop_gradient

from flowcore.calculus import d_dt


def lmd(model, x, s, t, *, v, target):
    """dF/dt = v(F, t), nothing stopped: the gradient also runs through the teacher's input. `target` is not used.

    Reference: Boffi, Albergo & Vanden-Eijnden 2024, "Flow map matching", Lagrangian map distillation.
    """
    end, end_dt = d_dt(model)(x, s, t)
    return end_dt, v(end, t)


def lsd(model, x, s, t, *, v, target):
    """dF/dt = sg[ v(sg[F], t) ]: the velocity at the endpoint is a fixed target. `target` is not used.

    With the map's own velocity this is self-distillation, with a teacher's the stopped form of `lmd`.
    Reference: Boffi, Albergo & Vanden-Eijnden 2025, "How to build a consistency model", Lagrangian self-distillation.
    """
    end, end_dt = d_dt(model)(x, s, t)
    return end_dt, stop_gradient(v(stop_gradient(end), t))
