r"""Equalities from the Lagrangian rule: as its target time runs, the end of a jump moves with the velocity found there.

    d/dt F(x_s, s, t) = v(F(x_s, s, t), t)          one JVP with tangent (0, 0, 1)

Each takes `(model, x, s, t, *, v, target)` for one example and returns the two sides, both like x. `v(x, t)` is the
velocity source, `target` a trusted copy of the map. The VALUES of these siblings coincide to rounding; they differ in
the path of the gradient:

    lmd        through dF/dt and through the point at which v is asked (v is a frozen teacher's)
    lsd        through dF/dt only (v is the map's own; with a slow average's it is terminal velocity matching)
    ayf_lmd    through V only: neither the derivative nor the velocity carries any
    pid        through both points of a finite difference that stands for dF/dt

None is linear in a velocity at x_s, so the conditional velocity may not be used. FreeFlow's correction is no
consistency rule: it moves the end of the jump to where the teacher and the map's own samples disagree.
"""

from jax.lax import stop_gradient

from flowcore.calculus import d_dt
from flowcore.path import interpolate


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


def ayf_lmd(model, x, s, t, *, v, target):
    """V = sg[ v(F, t) - (t - s) dV/dt ]: the gradient runs through V only. `target` is not used.

    The limit of a finite step: F(x_s, s, t) against the jump to a slightly earlier time and one teacher step from
    there, which weighs (t - s)^2. At s = 1, from noise alone, it is FreeFlow's prediction.
    Reference: Sabour, Fidler & Kreis 2025, "Align Your Flow", Lagrangian map distillation; Tong et al. 2025, "Flow Map
    Distillation Without Data".
    """
    V, dV_dt = d_dt(model.average_velocity)(x, s, t)
    return V, stop_gradient(v(x + (t - s) * V, t) - (t - s) * dV_dt)


def free_flow(model, x, s, u, t, *, v, target, auxiliary, noise):
    """V(x_s, s, t) = sg[ V - (v_aux(x_u, u) - v(x_u, u)) ], x_u = (1 - u) F(x_s, s, t) + u noise.

    The correction: v_aux is the velocity of the map's own samples (the auxiliary network's), and where it is the
    teacher's there is nothing to correct. Asked at s = 1 and t = 0, beside `ayf_lmd` at s = 1. `target` is not used.
    Reference: Tong et al. 2025, "Flow Map Distillation Without Data" (FreeFlow), correction by the marginal velocity.
    """
    V = model.average_velocity(x, s, t)
    x_u = stop_gradient(interpolate(x + (t - s) * V, noise, u))
    return V, stop_gradient(V - (auxiliary(x_u, u) - v(x_u, u)))


def free_flow_auxiliary(model, x, s, u, t, *, v, target, noise):
    """v_aux(x_u, u) = v, x_u = (1 - u) sg[F(x_s, s, t)] + u noise: flow matching on the map's own samples.

    v_aux is the velocity of `model.auxiliary`; v comes from `flowcore.objectives.context.sample_velocity`.
    Reference: Tong et al. 2025, "Flow Map Distillation Without Data" (FreeFlow), the online auxiliary model.
    """
    x_u = interpolate(stop_gradient(target(x, s, t)), noise, u)
    return model.auxiliary.velocity(x_u, u), stop_gradient(v(x_u, u))


def pid(model, x, s, u, t, *, v, target):
    """F_u - u (F_u - F_t) / (u - t) = sg[ F_u - u v(F_u, u) ], F_u = F(x_s, s, u): a chord, carried on to t = 0.

    u and t are neighbours on a grid. The gradient runs through both ends of the chord; because F_u also stands on the
    right, where it is stopped, it is not that of u^2 |dF/du - sg[v]|^2, although the values agree in the limit.
    Reference: Tee et al. 2024, "Physics Informed Distillation for Diffusion Models", algorithm 1, as released.
    """
    F_u, F_t = model(x, s, u), model(x, s, t)
    return F_u - u * (F_u - F_t) / (u - t), stop_gradient(F_u - u * v(F_u, u))
