import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import leaves, lively

from flowcore import NETWORKS, AverageVelocityMap, OdeMap
from flowcore.calculus import along
from flowcore.maps import in_float32
from flowcore.networks import Linear, in_bfloat16, source_and_level
from flowcore.networks.precision import Bfloat16Convolution, Bfloat16Linear, round_to_bfloat16
from flowcore.tasks import TASKS

IMAGE = jax.random.normal(jax.random.key(1), (8, 8, 1))
every = pytest.mark.parametrize("name", NETWORKS)
for_images = pytest.mark.parametrize("name", ["dit", "unet"])
called = eqx.filter_jit(lambda net, *arguments: net(*arguments))


@pytest.fixture(autouse=True)
def promotion():
    """JAX's own derivatives of narrow products mix types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def single(tree):
    """In float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, tree)


def built(name, **options):
    return lively(NETWORKS[name]((8, 8, 1), 8, 1, key=jax.random.key(0), **options))


def distance(a, b):
    """Relative, of two arrays."""
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@every
def test_every_network_starts_at_zero_and_is_told_clock_and_condition(name):
    """What the notebooks ask of it: another clock, and numbers beside the times."""
    options = {"clock": source_and_level(7), "conditions": 2, "key": jax.random.key(0)}
    net = NETWORKS[name]((8, 8, 1), 8, 1, **options)
    told, other = jnp.array([1.0, 2.0]), jnp.array([1.0, 2.5])
    assert jnp.array_equal(called(net, IMAGE, 0.9, 0.2, told), jnp.zeros_like(IMAGE))
    net = lively(net)
    once = called(net, IMAGE, 0.9, 0.2, told)
    assert jnp.max(jnp.abs(called(net, IMAGE, 0.9, 0.2, other) - once)) > 1e-3
    below, further = (called(net, IMAGE, 0.9, 0.9 - gap, told) for gap in (2.0**-8, 2.0**-9))
    assert jnp.array_equal(below, further)  # the last level of this clock


@every
def test_it_is_as_large_as_it_is_asked_to_be(name):
    """All of `width` and `depth` arrives, and a narrow network has the weights of the wide one."""
    build, key = NETWORKS[name], jax.random.key(0)
    sizes = [sum(leaf.size for leaf in leaves(build((8, 8, 1), *size, key=key))) for size in ((8, 1), (8, 2), (16, 1))]
    assert sizes[0] < sizes[1] and 1.5 * sizes[0] < sizes[2]
    wide = NETWORKS[name.removesuffix("_bfloat16")]((8, 8, 1), 8, 1, key=key)
    assert all(
        jnp.array_equal(a, b) for a, b in zip(leaves(build((8, 8, 1), 8, 1, key=key)), leaves(wide), strict=True)
    )


def test_an_unknown_name_is_told_the_choices():
    with pytest.raises(KeyError, match="'transformer' is not a choice here: take one of 'mlp', 'dit', 'unet'"):
        NETWORKS["transformer"]
    with pytest.raises(KeyError, match="take one of 'garments', .*'mixture', 'digits', 'fashion_mnist'"):
        TASKS["mnist"]


@for_images
def test_the_networks_for_images_refuse_points(name):
    with pytest.raises(ValueError, match=f"network '{name}' is for images .* shape \\(2,\\): take 'mlp'"):
        NETWORKS[name]((2,), 8, 1, key=jax.random.key(0))


@for_images
def test_bfloat16_is_close_to_float32_in_value_jvp_and_gradient(name):
    """Nowhere equal, so that something is narrow; in single precision throughout."""
    net, x = single(built(name)), single(IMAGE)
    narrow, v = in_bfloat16(net), jnp.cos(x)

    def loss(net):
        return jnp.sum(along(v)(net)(x, 0.9, 0.2)[1] ** 2)

    for value in range(2):
        exact, close = (eqx.filter_jit(along(v)(each))(x, 0.9, 0.2)[value] for each in (net, narrow))
        assert close.dtype == jnp.float32
        assert 1e-4 < distance(close, exact) < 3e-2
    exact, close = (eqx.filter_jit(eqx.filter_grad(loss))(each) for each in (net, narrow))
    exact, close = (jnp.concatenate([leaf.ravel() for leaf in leaves(each)]) for each in (exact, close))
    assert close.dtype == jnp.float32
    assert 1e-4 < distance(close, exact) < 5e-2


def test_what_a_narrow_network_gives_is_wide():
    """Value, tangent and gradient have more digits than a bfloat16 holds: they are not kept in it."""
    narrow, x = in_bfloat16(single(built("dit"))), single(IMAGE)
    value, tangent = eqx.filter_jit(lambda net: along(jnp.cos(x))(net)(x, 0.9, 0.2))(narrow)
    slope = eqx.filter_jit(eqx.filter_grad(lambda net: jnp.sum(net(x, 0.9, 0.2) ** 2)))(narrow)
    for found in (value, tangent, slope.into.layer.weight, slope.blocks[0].attention.project.layer.weight):
        assert jnp.mean(found == round_to_bfloat16(found)) < 0.1


def test_an_ode_is_solved_with_the_wide_network():
    """The solver adapts its steps to the field, and would to its rounding."""
    net, x = single(built("dit")), single(IMAGE)
    solved = eqx.filter_jit(lambda field: OdeMap(field, tolerance=1e-3)(x, 1.0, 0.5))
    wide, narrow = (solved(AverageVelocityMap(each).velocity) for each in (net, in_bfloat16(net)))
    assert jnp.array_equal(wide, narrow)
    assert eqx.tree_equal(in_float32(in_bfloat16(net)), net)


@for_images
def test_what_the_times_pass_through_is_not_narrow(name):
    narrow = in_bfloat16(built(name))
    kinds = (Linear, eqx.nn.Conv2d, Bfloat16Linear, Bfloat16Convolution)

    def layers(tree):
        found = jax.tree.leaves(tree, is_leaf=lambda node: type(node) in kinds)
        return {type(node) for node in found if type(node) in kinds}

    blocks = narrow.blocks if name == "dit" else [*narrow.down[0], narrow.middle[0]]
    assert layers([narrow.times, *(block.modulate for block in blocks)]) == {Linear}
    inner = (narrow.into, narrow.out, narrow.blocks[0].mlp if name == "dit" else narrow.up[0][0].first)
    assert layers(inner) == ({Bfloat16Linear} if name == "dit" else {Bfloat16Linear, Bfloat16Convolution})


def test_a_narrow_product_is_that_of_narrow_operands():
    """Held against numpy's product of the rounded numbers, of which each has 8 significant bits."""
    layer = single(Linear(64, 32, key=jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (64,), jnp.float32)
    weight, point = (np.asarray(a.astype(jnp.bfloat16).astype(jnp.float64)) for a in (layer.weight, x))
    expected = weight @ point + np.asarray(layer.bias)
    assert np.allclose(called(Bfloat16Linear(layer), x), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu", "cpu"])
def test_derivatives_of_a_narrow_product_are_narrow_and_kept_wide(platform):
    """As compiled for an accelerator: products of float32 that it is to make of bfloat16 operands. A processor is asked
    for nothing: jaxlib 0.10.2 aborts over it."""
    layer = Bfloat16Linear(single(Linear(4, 4, key=jax.random.key(0))))
    slope = jax.jit(jax.grad(lambda x: jnp.sum(jax.jvp(layer, (x,), (x,))[1] ** 2)))
    program = jax.export.export(slope, platforms=[platform])(jax.ShapeDtypeStruct((4,), jnp.float32)).mlir_module()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 2
    assert all("-> tensor<4xf32>" in line for line in products)
    assert {"lhs_precision_type = bf16" in line for line in products} == {platform != "cpu"}
