r"""Equalities from the compositional rule: two jumps in a row are one.

    F(F(x_s, s, u), u, t) = F(x_s, s, t)
                     <=>  V(x_s, s, t) = l V(x_s, s, u) + (1 - l) V(F(x_s, s, u), u, t),      u = s + l (t - s)

Most take `(model, x, s, u, t, *, v, target)` for one example and return the two sides, both like x; `v(x, t)` is the
velocity source, `target` a trusted copy of the map, which makes the two jumps. No derivative of the map is needed, but
nothing here knows the data either: alone, a constant V obeys the rule, so a term on the diagonal must ground it.

Flow map matching jumps away and comes back, and asks with what velocity the way back ends: `(model, x, s, t, ...)`.
"""

import jax.numpy as jnp
from jax.lax import stop_gradient

from flowcore.calculus import d_dt


def psd(model, x, s, u, t, *, v, target):
    """V(x, s, t) = sg[ l V(x, s, u) + (1 - l) V(F(x, s, u), u, t) ], both velocities the target's. `v` is not used.

    With the map itself as target this is progressive self-distillation; with a frozen map, progressive flow map
    matching: the F-space residual of the paper is this one times (s - t), so its weight is (s - t)^2. At half way, on
    jumps of length 2^-n, it is shortcut models' self-consistency; on a teacher's diagonal it is SplitMeanFlow's.
    Reference: Boffi et al. 2025, "How to build a consistency model", progressive self-distillation; Boffi et al. 2024,
    "Flow map matching", progressive flow map matching; Frans et al. 2024, "One Step Diffusion via Shortcut Models",
    eq. 4; Guo et al. 2025, "SplitMeanFlow".
    """
    # at s = t all three velocities are one and any share will do: the guard keeps 0/0 out
    jumped = jnp.where(s == t, 1.0, s - t)
    share = jnp.where(s == t, 0.5, (s - u) / jumped)
    first = target.average_velocity(x, s, u)
    second = target.average_velocity(x + (u - s) * first, u, t)
    return model.average_velocity(x, s, t), stop_gradient(share * first + (1 - share) * second)


def fmm(model, x, s, t, *, v, target):
    """d/dr F(y, t, r) at r = s equals v(x, s), where y = F(x, s, t): the way back ends with the velocity at its end.

    y is held still in the derivative, but the gradient runs through it: nothing is stopped. Linear in a velocity at
    x_s, so the conditional velocity serves. `target` is not used.
    Reference: Boffi, Albergo & Vanden-Eijnden 2024, "Flow map matching" (the term that the release trains).
    """
    y = model(x, s, t)
    _, back_ds = d_dt(model)(y, t, s)
    return back_ds, v(x, s)


def fmm_inverse(model, x, s, t, *, v, target):
    """F(F(x, s, t), t, s) = x: the way back undoes the way there. The paper's other term; alone it is degenerate."""
    return model(model(x, s, t), t, s), x
