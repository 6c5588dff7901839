r"""Equalities from the Eulerian rule: the end of a jump does not change while its start moves along the path.

    d/ds F(x_s, s, t) = dF/ds + (grad_x F) v(x_s, s) = 0
                    <=>  V = v + (t - s) dV/ds          dV/ds along the path: one JVP with tangent (v, 1, 0)

Each takes `(model, x, s, t, *, v, target)` for one example and returns the two sides, both like x. `v(x, t)` is the
velocity source, `target` a trusted copy of the map; siblings differ in where the gradient is stopped.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from flowcore.calculus import along, d_ds


def mean_flow(model, x, s, t, *, v, target):
    """V(x, s, t) = sg[ v + (t - s) dV/ds ], with the same v in the sum and in the tangent.

    Linear in v, so the conditional velocity eps - x0 serves, but only because the gradient of the derivative is
    stopped. `target` is not used: the derivative is the live model's.
    Reference: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", eq. 9-11 (z_t, t, r are our x, s, t).
    """
    v_x = v(x, s)
    V, dV_ds = along(v_x)(model.average_velocity)(x, s, t)
    return V, stop_gradient(v_x + (t - s) * dV_ds)


def emd(model, x, s, t, *, v, target):
    """d/ds F(x_s, s, t) = 0 along the path, nothing stopped: the gradient runs through the whole JVP. `target` unused.

    Needs the marginal velocity (a teacher's): the square is not linear in v, and the conditional one shrinks the map.
    Reference: Boffi, Albergo & Vanden-Eijnden 2024, "Flow map matching", Eulerian map distillation.
    """
    _, end_ds = along(v(x, s))(model)(x, s, t)
    return end_ds, jnp.zeros_like(x)


def esd(model, x, s, t, *, v, target):
    """dF/ds = -sg[ (grad_x F) v ]: the gradient runs through the partial derivative in s only. `target` is not used.

    Two JVPs, one per side, because only one of them is differentiated.
    Reference: Boffi et al. 2025, "How to build a consistency model", Eulerian self-distillation.
    """
    _, end_ds = d_ds(model)(x, s, t)
    _, advected = jax.jvp(lambda x: model(x, s, t), (x,), (stop_gradient(v(x, s)),))
    return end_ds, -stop_gradient(advected)
