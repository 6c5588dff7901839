"""The equality on the diagonal s = t, where a flow map is a velocity: V(x, s, s) = v(x, s)."""


def flow_matching(model, x, s, t, *, v, target):
    """V(x, s, s) = v(x, s). With v = eps - x0 the minimiser is the marginal velocity E[eps - x0 | x_s = x].

    `t` is not read: on the diagonal it equals s. Shapes like x.
    Reference: Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 9 (conditional flow matching).
    """
    return model.velocity(x, s), v(x, s)
