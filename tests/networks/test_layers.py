import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import gradient, leaves, lively

from flowcore.calculus import along, d_ds, d_dt, difference_along
from flowcore.networks import DiT, Linear, ResidualMLP, gap_only, source_and_gap, source_and_level
from flowcore.networks.layers import fourier_features, rms_norm
from flowcore.networks.unet import UNet

POINT = jnp.array([0.7, -0.4])
IMAGE = jax.random.normal(jax.random.key(1), (4, 6, 3))
NETS = {
    "mlp": (ResidualMLP(2, 16, 2, key=jax.random.key(0)), POINT),
    "mlp on images": (ResidualMLP(4 * 6 * 3, 16, 1, key=jax.random.key(0)), IMAGE),
    "dit": (DiT((4, 6, 3), patch=2, width=8, depth=2, heads=2, key=jax.random.key(0)), IMAGE),
    "unet": (UNet((4, 8, 3), width=4, depth=1, key=jax.random.key(0)), jax.random.normal(jax.random.key(2), (4, 8, 3))),
}
every = pytest.mark.parametrize("name", NETS)
called = eqx.filter_jit(lambda net, x, s, t: net(x, s, t))


@every
def test_the_output_is_zero_before_training_and_like_the_input(name):
    net, x = NETS[name]
    assert jnp.array_equal(called(net, x, 0.9, 0.2), jnp.zeros_like(x))


@every
def test_after_leaving_initialisation_every_parameter_gets_a_gradient(name):
    """No layer is dead: the gradient reaches every array, though at the start most are behind a zero."""
    net, x = NETS[name]
    slope = eqx.filter_jit(eqx.filter_grad(lambda net: jnp.sum(net(x, 0.9, 0.2) ** 2)))(lively(net))
    assert len(leaves(slope)) == len(leaves(net))
    assert all(jnp.linalg.norm(leaf) > 1e-8 for leaf in leaves(slope))


@every
def test_at_initialisation_the_output_layer_gets_a_gradient(name):
    """Zero output is a start, not a trap."""
    net, x = NETS[name]
    assert jnp.linalg.norm(gradient(lambda net: jnp.sum((net(x, 0.9, 0.2) - 1) ** 2), net)) > 1e-3


@every
def test_both_times_matter(name):
    """The output changes with the source at fixed target, with the target at fixed source, and with both together."""
    net, x = lively(NETS[name][0]), NETS[name][1]
    _, by_source = jax.jit(d_ds(net))(x, 0.9, 0.2)
    _, by_target = jax.jit(d_dt(net))(x, 0.9, 0.2)
    assert min(jnp.linalg.norm(by_source), jnp.linalg.norm(by_target), jnp.linalg.norm(by_source + by_target)) > 1e-3


def test_a_clock_that_tells_only_the_gap_is_blind_to_the_source_time():
    """Moving both times together changes nothing: df/ds + df/dt = 0."""
    net = lively(ResidualMLP(2, 16, 2, clock=gap_only, key=jax.random.key(0)))
    by_source, by_target = d_ds(net)(POINT, 0.9, 0.2)[1], d_dt(net)(POINT, 0.9, 0.2)[1]
    assert jnp.linalg.norm(by_source) > 1e-3
    assert jnp.max(jnp.abs(by_source + by_target)) < 1e-12


@pytest.mark.parametrize("make", [ResidualMLP, DiT])
def test_a_condition_is_told_beside_the_times(make):
    size, x = ((2, POINT), ((4, 6, 3), IMAGE))[make is DiT]
    net = lively(make(size, conditions=2, width=16, key=jax.random.key(0)))
    once, again, other = (net(x, 0.9, 0.2, jnp.array(condition)) for condition in ((1.0, 2.0), (1.0, 2.0), (1.0, 2.5)))
    assert jnp.array_equal(once, again)
    assert jnp.max(jnp.abs(once - other)) > 1e-3


def test_a_net_without_conditions_is_the_same_net():
    """What was recorded before there were any still holds."""
    plain, none = (ResidualMLP(2, 16, 2, key=jax.random.key(0), **k) for k in ({}, {"conditions": 0}))
    assert eqx.tree_equal(plain, none)


@every
def test_it_has_a_jvp(name):
    net, x = lively(NETS[name][0]), NETS[name][1]
    v = jnp.cos(x)
    _, slope = jax.jit(along(v)(net))(x, 0.9, 0.2)
    _, twin = jax.jit(difference_along(v, 1e-4)(net))(x, 0.9, 0.2)
    assert jnp.allclose(slope, twin, rtol=1e-4, atol=1e-5)


@every
def test_single_precision_stays_in_single_precision(name):
    net, x = NETS[name]
    net = jax.tree.map(lambda a: a.astype(jnp.float32) if eqx.is_inexact_array(a) else a, net)
    assert called(net, x.astype(jnp.float32), 0.9, 0.2).dtype == jnp.float32


def test_the_clocks():
    s, t = jnp.asarray(0.9), jnp.asarray(0.2)
    assert jnp.allclose(source_and_gap(s, t), jnp.array([0.9, 0.7]))
    assert jnp.allclose(gap_only(s, t), jnp.array([0.7, 0.7]))


def test_the_level_clock_counts_halvings_of_the_jump_up_to_the_last():
    """A full jump is level 0, an eighth level 3 of 7; what is shorter than 2^-7, down to nothing, is level 7."""
    clock = source_and_level(7)
    told = jnp.stack([clock(0.9, 0.9 - gap)[1] for gap in (0.125, 2.0**-7, 1e-4, 0.0)])
    assert jnp.allclose(told, jnp.array([3 / 7, 1.0, 1.0, 1.0]), rtol=1e-12)
    assert jnp.array_equal(clock(1.0, 0.0), jnp.array([1.0, 0.0]))


def test_waves_are_octaves_from_a_quarter_turn():
    """sin and cos of pi/2, pi and 2 pi times each clock: every feature by hand."""
    clock = jnp.array([0.3, 0.8])
    phases = jnp.pi * jnp.array([0.5 * 0.3, 0.5 * 0.8, 0.3, 0.8, 2 * 0.3, 2 * 0.8])
    expected = jnp.concatenate([jnp.sin(phases), jnp.cos(phases)])
    assert jnp.allclose(fourier_features(clock, 3), expected, atol=1e-15)


def test_a_linear_layer_is_the_librarys_and_keeps_rows_first_in_value_and_tangent():
    layer, theirs = (kind(3, 4, key=jax.random.key(0)) for kind in (Linear, eqx.nn.Linear))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    assert jnp.allclose(jax.vmap(layer)(x), jax.vmap(theirs)(x), rtol=1e-12)

    def products(layer):
        graph = jax.make_jaxpr(jax.vmap(lambda x: jax.jvp(layer, (x,), (x,))))(x)
        return {v.aval.shape for equation in graph.eqns for v in equation.outvars if "dot" in equation.primitive.name}

    assert products(layer) == {(5, 4)}
    assert products(theirs) == {(4, 5)}


def test_unit_rows_have_root_mean_square_one():
    rows = rms_norm(jnp.array([[3.0, 4.0], [100.0, 0.0]]))
    assert jnp.allclose(jnp.mean(rows**2, axis=1), 1.0, atol=1e-5)


def mirror():
    """A DiT whose layers are identities: what comes out is what the patches keep of the image."""
    net = DiT((4, 6, 3), patch=2, width=12, depth=0, heads=1, key=jax.random.key(0))
    identity, zero = jnp.eye(12), jnp.zeros(12)
    return eqx.tree_at(
        lambda net: (net.into.weight, net.into.bias, net.out.weight, net.out.bias, net.place),
        net,
        (identity, zero, identity, zero, jnp.zeros_like(net.place)),
    )


def test_patches_are_squares_and_go_back_where_they_came_from():
    """Each 2x2 square comes out divided by its own root mean square, and by nobody else's."""
    out = mirror()(IMAGE, 0.9, 0.2)
    for row in range(0, 4, 2):
        for column in range(0, 6, 2):
            square = IMAGE[row : row + 2, column : column + 2]
            expected = square / jnp.sqrt(jnp.mean(square**2) + 1e-6)
            assert jnp.allclose(out[row : row + 2, column : column + 2], expected, rtol=1e-12)


def test_patches_are_told_apart_by_their_place_alone():
    """Swap two patches: without places the output is swapped along, with them it is another."""
    net = lively(NETS["dit"][0])
    swapped = IMAGE.at[:2, :2].set(IMAGE[2:, 4:]).at[2:, 4:].set(IMAGE[:2, :2])

    def follows(net):
        out, other = called(net, IMAGE, 0.9, 0.2), called(net, swapped, 0.9, 0.2)
        return bool(jnp.allclose(other[:2, :2], out[2:, 4:])) and bool(jnp.allclose(other[2:, :2], out[2:, :2]))

    assert follows(eqx.tree_at(lambda net: net.place, net, jnp.zeros_like(net.place)))
    assert not follows(net)


def test_attention_mixes_the_patches():
    """Every output pixel depends on every input patch."""
    net = lively(NETS["dit"][0])
    reach = jax.jit(jax.grad(lambda x: net(x, 0.9, 0.2)[0, 0, 0]))(IMAGE)
    assert jnp.min(jnp.max(jnp.abs(reach), axis=2)) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 4}, "patches of 4 do not tile an image of 4x6"),
        ({"width": 10, "heads": 4}, "4 heads do not divide a width of 10"),
    ],
)
def test_a_dit_that_does_not_fit_says_so(settings, message):
    with pytest.raises(ValueError, match=message):
        DiT((4, 6, 3), **settings, key=jax.random.key(0))
