import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import lively

from flowcore.networks.unet import UNet, upsample

IMAGE = jax.random.normal(jax.random.key(1), (4, 8, 3))
NET = UNet((4, 8, 3), width=4, depth=1, key=jax.random.key(0))


def test_it_remembers_pixels_on_the_way_down():
    """Without its middle, which sees a quarter of the sides, the net still tells pixels apart."""
    net = lively(NET)
    cut = eqx.tree_at(lambda net: net.grow, net, jax.tree.map(jnp.zeros_like, net.grow, is_leaf=eqx.is_array))
    moved = IMAGE.at[0, 0, 0].add(0.1)
    change = jnp.abs(cut(moved, 0.9, 0.2) - cut(IMAGE, 0.9, 0.2))
    assert change[0, 0].max() > 1e-3
    assert change[0, 0].max() > 3 * change[3, 7].max()


def test_every_pixel_reaches_every_other():
    """Through the attention of the lowest resolution."""
    reach = jax.jit(jax.grad(lambda x: lively(NET)(x, 0.9, 0.2)[0, 0, 0]))(IMAGE)
    assert jnp.min(jnp.max(jnp.abs(reach), axis=2)) > 0


def test_a_doubled_pixel_is_a_square():
    x = jnp.array([[[1.0, 2.0]]])
    assert jnp.array_equal(upsample(x), jnp.array([[[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]]))


@pytest.mark.parametrize(
    ("shape", "width", "message"),
    [
        ((6, 8, 1), 4, "an image of 6x8 cannot be halved 2 times"),
        ((8, 8, 1), 6, "4 groups do not divide a width of 6"),
    ],
)
def test_a_unet_that_does_not_fit_says_so(shape, width, message):
    with pytest.raises(ValueError, match=message):
        UNet(shape, width, key=jax.random.key(0))
