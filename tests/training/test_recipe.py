"""What decides a training run."""

import jax

from flowcore import training


def test_two_seeds_share_neither_weights_nor_draws():
    """Else a recording over seeds would measure one run several times."""
    states = [training.Recipe(width=8, depth=1, steps=5, seed=seed).begin((2,))[0] for seed in (0, 1, 2)]
    keys = {tuple(jax.random.key_data(state.key).tolist()) for state in states}
    weights = {float(state.model.net.into.weight[0, 0]) for state in states}
    assert len(keys) == len(weights) == 3
