r"""Equalities from the Eulerian rule: the end of a jump does not change while its start moves along the path.

    d/ds F(x_s, s, t) = dF/ds + (grad_x F) v(x_s, s) = 0
                    <=>  V = v + (t - s) dV/ds          dV/ds along the path: one JVP with tangent (v, 1, 0)

Each takes `(model, x, s, t, *, v, target)` for one example and returns the two sides, both like x. `v(x, t)` is the
velocity source, `target` a trusted copy of the map; siblings differ in where the gradient is stopped.

Before the derivative comes the finite step, from which the older methods are made: two points of one path, at s and at
u < s, end in the same place. These take `(model, x, s, u, t, ...)`. `solver(v)` is the flow map that makes the step
from x_s to x_u: with `TangentMap` (Euler) and the conditional velocity, x_u is the point of the SAME data and noise at
u; with a teacher's velocity it is a step of the teacher's ODE, also by `HeunMap`, `EdmHeunMap` or `OdeMap`. The step is
never exact, so their fixed points are biased, and the bias vanishes with it.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from flowcore.calculus import along, d_ds
from flowcore.maps import TangentMap


def ct(model, x, s, u, t, *, v, target, solver=TangentMap):
    """F(x_s, s, t) = sg[ F(x_u, u, t) ], the right side by the target: consistency, with t = 0 in the papers.

    With the conditional velocity this is consistency training, with a teacher's consistency distillation. To
    first order the sides are (s - u) dF/ds apart, so its gradient is MeanFlow's times (s - u) (s - t).
    Reference: Song, Dhariwal, Chen & Sutskever 2023, "Consistency Models", eq. 7 (CD) and 10 (CT).
    """
    x_u = solver(v)(x, s, u)
    return model(x, s, t), stop_gradient(target(x_u, u, t))


def ctm(model, x, s, u, t, *, v, target, solver=TangentMap, end=0.0):
    """G(F(x_s, s, t), t, 0) = sg[ G(F(x_u, u, t), t, 0) ]: two jumps to t, compared after a frozen jump G to `end`.

    G is the target; the inner jumps are the live model's, and the gradient of the left side passes through G to its
    input. At u = t the right side holds no jump of the model but the frozen one.
    Reference: Kim et al. 2024, "Consistency Trajectory Models", eq. 7; the weights on each side are the release's.
    """
    x_u = solver(v)(x, s, u)
    left, right = model(x, s, t), model(x_u, u, t)
    return target(left, t, end), stop_gradient(target(right, t, end))


def soflow(model, x, s, u, t, *, v, target, solver=TangentMap):
    """V(x_s, s, t) = sg[ V + (F(x_s, s, t) - F(x_u, u, t)) / (s - u) ]: MeanFlow with a finite difference for its JVP.

    Written without the small difference of two endpoints, the right side is v + (t - u) (V - V_u) / (s - u), where v
    is the velocity of the step and V_u the target's velocity from x_u.
    Reference: Luo et al. 2025, "SoFlow"; the consistency loss of the release, whose value is another one (an inner
    product that may be negative) and whose gradient is this one's.
    """
    v_step = solver(v).average_velocity(x, s, u)
    V, V_u = model.average_velocity(x, s, t), target.average_velocity(x + (u - s) * v_step, u, t)
    # at s = t there is no step: u = s, and V = V_u whatever they are divided by
    difference = (V - V_u) / jnp.where(s == u, 1.0, s - u)
    return V, stop_gradient(v_step + (t - u) * difference)


def mean_flow(model, x, s, t, *, v, target):
    """V(x, s, t) = sg[ v + (t - s) dV/ds ], with the same v in the sum and in the tangent.

    Linear in v, so the conditional velocity eps - x0 serves, but only because the gradient of the derivative is
    stopped. `target` is not used: the derivative is the live model's.
    Reference: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", eq. 9-11 (z_t, t, r are our x, s, t).
    """
    v_x = v(x, s)
    V, dV_ds = along(v_x)(model.average_velocity)(x, s, t)
    return V, stop_gradient(v_x + (t - s) * dV_ds)


def improved_mean_flow(model, x, s, t, *, v, target):
    """V + (s - t) sg[dV/ds] = v(x, s), dV/ds along the map's own velocity: MeanFlow's equality solved for v.

    The left side knows nothing of the noise in v, so this is a regression like flow matching: v may be eps - x0, and
    the stop only saves a backward pass. `target.velocity` is the tangent. The survey prints the other sign, (t - s),
    which the exact map does not obey.
    Reference: Geng et al. 2025, "Improved Mean Flows", with the tangent V(x, s, s) (the paper's boundary condition).
    """
    V, dV_ds = along(target.velocity(x, s))(model.average_velocity)(x, s, t)
    return V + (s - t) * stop_gradient(dV_ds), v(x, s)


def emd(model, x, s, t, *, v, target):
    """d/ds F(x_s, s, t) = 0 along the path, nothing stopped: the gradient runs through the whole JVP. `target` unused.

    Needs the marginal velocity (a teacher's): the square is not linear in v, and the conditional one shrinks the map.
    Reference: Boffi, Albergo & Vanden-Eijnden 2024, "Flow map matching", Eulerian map distillation.
    """
    _, end_ds = along(v(x, s))(model)(x, s, t)
    return end_ds, jnp.zeros_like(x)


def esd(model, x, s, t, *, v, target):
    """dF/ds = -sg[ (grad_x F) v ], the Jacobian grad_x F the target's: the gradient runs through dF/ds only.

    Two JVPs, one per side, because only one of them is differentiated.
    Reference: Boffi et al. 2025, "How to build a consistency model", Eulerian self-distillation; that the Jacobian is
    the averaged target's is the release's.
    """
    _, end_ds = d_ds(model)(x, s, t)
    _, advected = jax.jvp(lambda x: target(x, s, t), (x,), (stop_gradient(v(x, s)),))
    return end_ds, -stop_gradient(advected)


def facm(model, x, s, t, *, v, target):
    """V = sg[ V + a clip(v + (t - s) dV/ds - V, -1, 1) ], a = 1 - sqrt(1 - s): MeanFlow's target, clipped and relaxed.

    Asked for at t = 0, beside a flow-matching term that anchors it. `target` is not used: all stopped parts are live.
    Reference: Peng et al. 2025, "Flow-Anchored Consistency Models", the consistency loss of the release.
    """
    v_x = v(x, s)
    V, dV_ds = along(v_x)(model.average_velocity)(x, s, t)
    residual = jnp.clip(v_x + (t - s) * dV_ds - V, -1.0, 1.0)
    return V, stop_gradient(V + (1 - jnp.sqrt(1 - s)) * residual)


def ayf_emd(model, x, s, t, *, v, target, warmup=1.0, offset=0.1):
    """V = sg[ V + g / (|g| + c) ], g = v - V + r (t - s) dV/ds: MeanFlow's residual, of bounded length.

    r = `warmup` < 1 also pulls V towards v: a penalty on curvature that eases the start. `target` is not used.
    Reference: Sabour, Fidler & Kreis 2025, "Align Your Flow", Eulerian map distillation, with the tangent normalised
    (c = `offset`, over the whole vector) and warmed up.
    """
    v_x = v(x, s)
    V, dV_ds = along(v_x)(model.average_velocity)(x, s, t)
    tangent = stop_gradient(v_x - V + warmup * (t - s) * dV_ds)
    return V, stop_gradient(V) + tangent / (jnp.sqrt(jnp.sum(tangent**2)) + offset)
