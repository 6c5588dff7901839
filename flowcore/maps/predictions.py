"""Flow maps made of a network, by what it predicts: the average velocity, the endpoint, or the denoised field."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp

from flowcore.checks import check
from flowcore.maps.flow_map import AbstractFlowMap


class AverageVelocityMap(AbstractFlowMap):
    """The network predicts V, maybe under a condition. Reference: Geng et al. 2025, eq. 3; Boffi et al. 2025, eq. 9."""

    net: Callable

    def average_velocity(self, x, s, t, *condition):
        return self.net(x, s, t, *condition)

    def velocity(self, x, t, *condition):
        return self.net(x, t, t, *condition)


class EndpointMap(AbstractFlowMap):
    """The network predicts the endpoint of a full jump: F = (1 - (s-t)) x + (s-t) net, so V = x - net.

    The boundary F(x, s, s) = x is exact and nothing is singular. Reference: the released code of Boffi, Albergo &
    Vanden-Eijnden 2024, "Flow map matching" (their time runs backwards).
    """

    net: Callable

    def average_velocity(self, x, s, t):
        return x - self.net(x, s, t)

    def velocity(self, x, t):
        return x - self.net(x, t, t)


class DenoisedMap(AbstractFlowMap):
    """The network predicts the denoised field x - s V, an image without noise, so V = (x - net) / max(s, floor).

    The division is singular at the data end, hence the floor. Reference: Lu et al. 2026, "One-step Latent-free Image
    Generation with Pixel Mean Flows" (floor 0.05 in the released code).
    """

    net: Callable
    floor: float = eqx.field(static=True, default=0.05)

    def __check_init__(self):
        check("floor of a DenoisedMap", self.floor, above=0, most=1)

    def average_velocity(self, x, s, t):
        return (x - self.net(x, s, t)) / jnp.maximum(jnp.asarray(s, x.dtype), self.floor)

    def velocity(self, x, t):
        return self.average_velocity(x, t, t)
