"""What decides a training run: the network, the optimiser and the seed, in one place."""

import dataclasses
import functools

import jax
import optax
from jaxtyping import PRNGKeyArray

from flowcore.checks import check
from flowcore.maps import AbstractFlowMap, AverageVelocityMap
from flowcore.networks import NETWORKS
from flowcore.objectives.schedules import Curriculum
from flowcore.training.loop import State, begin

SEEDS = 2**32 - 2  # the last seed: JAX drops the upper bits of larger ones, and the next is taken too
TRIAL = 100  # steps up to which a run only shows that everything works


@functools.cache  # equal runs share a compilation
def adam(rate: float, steps: int, clip: float = 1.0) -> optax.GradientTransformation:
    """Adam with gradients clipped to norm `clip` and a rate that falls from `rate` to 0 along a cosine over `steps`.

    Raises ValueError for a rate or clip that is not positive, and for no steps."""
    for name, value in {"rate": rate, "clip": clip, "steps": steps}.items():
        check(name, value, above=0)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(optax.cosine_decay_schedule(rate, steps)))


def check_counts(recipe, **least: int) -> None:
    """Raise ValueError for a part of a recipe that is below its least, for no rate, and for a seed that JAX has not."""
    for name, value in least.items():
        check(name, getattr(recipe, name), least=value, whole=True)
    check("rate", recipe.rate, above=0)
    check("seed", recipe.seed, least=0, most=SEEDS, whole=True)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Network (one of `flowcore.NETWORKS`, with its `width` and `depth`), training steps, examples per step, peak
    learning rate of Adam, and the seed of weights, batches and noise. Raises ValueError for numbers that cannot be."""

    network: str = "mlp"
    width: int = 128
    depth: int = 2
    steps: int = 4000
    batch: int = 512
    rate: float = 2e-3
    seed: int = 0

    def __post_init__(self):
        check_counts(self, width=1, depth=0, steps=0, batch=1)  # 0 steps: no such run

    @property
    def trial(self) -> bool:
        """Whether the run is so short that its numbers mean nothing: measuring may then shrink with it."""
        return self.steps <= TRIAL

    def replace(self, **changes) -> "Recipe":
        """The same recipe with some parts changed."""
        return dataclasses.replace(self, **changes)

    def model(self, shape: tuple[int, ...], *, key: PRNGKeyArray | None = None, **options) -> AbstractFlowMap:
        """An untrained flow map for examples of this shape; the same weights for every run of a seed. `options` go to
        the network."""
        key = jax.random.key(self.seed) if key is None else key
        return AverageVelocityMap(NETWORKS[self.network](shape, self.width, self.depth, key=key, **options))

    def begin(
        self,
        model: AbstractFlowMap | tuple[int, ...],
        *,
        key: PRNGKeyArray | None = None,
        target_decay: Curriculum = 0.0,
        memory=None,
    ) -> tuple[State, optax.GradientTransformation]:
        """(state, optimiser): what `fit` starts from, for a model, or for an untrained one of that shape."""
        model = self.model(model) if isinstance(model, tuple) else model
        key = jax.random.key(self.seed + 1) if key is None else key
        optimiser = adam(self.rate, self.steps)
        return begin(model, optimiser, key=key, target_decay=target_decay, memory=memory), optimiser
