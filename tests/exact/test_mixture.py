"""Every closed form of a Gaussian mixture, held in float64 against a definition that shares no code with it."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import multivariate_normal
from problems import gaussian

from flowcore import GaussianMap, GaussianMixtureMap, MixtureMap, OdeMap, SubspaceMap
from flowcore.exact import value

DIM, MODES = 3, 4
TIMES = [0.001, 0.01, 0.1, 0.3, 0.6, 0.9, 0.99]
at_times = pytest.mark.parametrize("t", TIMES)
KEY = jax.random.key(0)


def mixture(smallest=0.05, tolerance=1e-10):
    """Unequal weights, skewed axes, variances from smallest^2 to about one."""
    keys = jax.random.split(KEY, 4)
    axes, _ = jnp.linalg.qr(jax.random.normal(keys[0], (MODES, DIM, DIM)))
    variances = jnp.exp(jax.random.uniform(keys[1], (MODES, DIM), minval=2 * jnp.log(smallest), maxval=0.0))
    log_weights = jax.nn.log_softmax(jax.random.normal(keys[2], (MODES,)))
    return GaussianMixtureMap(log_weights, 1.5 * jax.random.normal(keys[3], (MODES, DIM)), axes, variances, tolerance)


LAW = mixture()
COVARIANCES = jnp.einsum("kij,kj,klj->kil", LAW.axes, LAW.variances, LAW.axes)


def points(t, n=6):
    keys = jax.random.split(jax.random.key(1), n)
    x0, eps = jax.vmap(LAW.sample)(keys), jax.random.normal(jax.random.key(2), (n, DIM))
    return (1 - t) * x0 + t * eps


def log_density(x, t):
    """The marginal of the path, dense."""
    return logsumexp(
        jnp.stack(
            [
                weight + multivariate_normal.logpdf(x, (1 - t) * mean, (1 - t) ** 2 * cov + t**2 * jnp.eye(DIM))
                for weight, mean, cov in zip(LAW.log_weights, LAW.means, COVARIANCES, strict=True)
            ]
        )
    )


def every(function, t):
    return jax.jit(jax.vmap(function))(points(t))


def close(a, b, tolerance):
    assert jnp.max(jnp.abs(a - b)) < tolerance * (1 + jnp.max(jnp.abs(b)))


@at_times
def test_density_score_velocity_and_divergence(t):
    t = jnp.asarray(t)
    close(every(lambda x: LAW.log_density(x, t), t), every(lambda x: log_density(x, t), t), 1e-12)
    score = every(lambda x: LAW.score(x, t), t)
    close(score, every(jax.grad(lambda x: log_density(x, t)), t), 1e-11)
    # the velocity in terms of the score, singular at t = 1: the dictionary of the path
    close(every(lambda x: LAW.velocity(x, t), t), -(points(t) + t * score) / (1 - t), 1e-11)
    trace = every(lambda x: jnp.trace(jax.jacfwd(lambda x: LAW.velocity(x, t))(x)), t)
    close(every(lambda x: LAW.divergence(x, t), t), trace, 1e-11)


@at_times
def test_the_continuity_equation(t):
    """d/dt log p + div v + v . score = 0."""
    t = jnp.asarray(t)

    def residual(x):
        rate = jax.grad(lambda t: LAW.log_density(x, t))(t)
        return rate + LAW.divergence(x, t) + LAW.velocity(x, t) @ LAW.score(x, t)

    assert jnp.max(jnp.abs(every(residual, t))) < 1e-8


def test_a_velocity_of_another_sign_does_not_continue_it():
    t = jnp.asarray(0.3)

    def residual(x):
        rate = jax.grad(lambda t: LAW.log_density(x, t))(t)
        return rate + LAW.divergence(x, t) - LAW.velocity(x, t) @ LAW.score(x, t)

    assert jnp.min(jnp.abs(every(residual, t))) > 1e-3


def test_the_ends_of_the_path():
    """v(x, 0) = -x and v(x, 1) = x - E x0: one Euler step is the mean of the data."""
    x = points(0.5)
    assert jnp.allclose(jax.vmap(lambda x: LAW.velocity(x, 0.0))(x), -x, atol=1e-13)
    assert jnp.allclose(jax.vmap(lambda x: LAW.velocity(x, 1.0))(x), x - LAW.mean[None], atol=1e-13)


def test_the_velocity_is_the_mean_of_the_conditional_one():
    """By importance sampling: E[eps - x0 | x_t = x] over 200,000 draws of x0, within four standard errors."""
    t, x = 0.6, points(0.6)[0]
    x0 = jax.vmap(LAW.sample)(jax.random.split(jax.random.key(5), 200_000))
    eps = (x[None] - (1 - t) * x0) / t
    weights = jax.nn.softmax(-jnp.sum(eps**2, axis=1) / 2)
    mean = weights @ (eps - x0)
    error = jnp.sqrt(jnp.sum(weights[:, None] ** 2 * (eps - x0 - mean[None]) ** 2, axis=0))
    assert jnp.all(jnp.abs(LAW.velocity(x, t) - mean) < 4 * error)
    assert jnp.max(error) < 0.05


def test_one_component_is_the_gaussian_map():
    one = GaussianMixtureMap(jnp.zeros(1), jnp.array([[0.3, -0.5]]), jnp.eye(2)[None], jnp.full((1, 2), 0.36), 1e-11)
    x = jnp.array([0.7, -0.4])
    for s, t in [(1.0, 0.0), (0.3, 0.8)]:
        assert jnp.allclose(one(x, s, t), gaussian()(x, s, t), atol=1e-9)
        assert jnp.allclose(one.velocity(x, s), gaussian().velocity(x, s), atol=1e-13)


def test_equal_isotropic_components_are_the_mixture_of_the_plane():
    means = jnp.array([[1.0, 0.0], [-0.5, 0.8], [0.2, -1.0]])
    log_weights, axes = jnp.full(3, -jnp.log(3.0)), jnp.broadcast_to(jnp.eye(2), (3, 2, 2))
    full = GaussianMixtureMap(log_weights, means, axes, jnp.full((3, 2), 0.09), 1e-10)
    plane, x = MixtureMap(means, 0.3, 1e-10), jnp.array([0.7, -0.4])
    for t in (0.0, 0.2, 0.9, 1.0):
        assert jnp.allclose(full.velocity(x, t), plane.velocity(x, t), atol=1e-13)
    assert jnp.allclose(full(x, 1.0, 0.0), plane(x, 1.0, 0.0), atol=1e-8)


def test_the_moments_of_samples():
    x = jax.vmap(LAW.sample)(jax.random.split(jax.random.key(3), 100_000))
    error = jnp.sqrt(jnp.diag(LAW.covariance) / len(x))
    assert jnp.all(jnp.abs(x.mean(axis=0) - LAW.mean) < 4 * error)
    assert jnp.allclose(jnp.cov(x.T), LAW.covariance, atol=0.05)


@pytest.mark.parametrize("t", [0.1, 0.6, 0.95])
def test_the_posterior_obeys_bayes(t):
    """p(x0 | x) p_t(x) = p(x0) N(x; (1-t) x0, t^2), and its mean is what the map denoises to."""
    x, x0 = points(t)[1], LAW.sample(jax.random.key(9))
    posterior = LAW.posterior(x, t)
    likelihood = multivariate_normal.logpdf(x, (1 - t) * x0, t**2 * jnp.eye(DIM))
    joint = LAW.log_density(x0) + likelihood
    assert posterior.log_density(x0) + LAW.log_density(x, t) == pytest.approx(float(joint), abs=1e-9)
    assert jnp.allclose(posterior.mean, LAW.denoise(x, t), atol=1e-11)


def test_the_posterior_at_the_ends():
    x = points(0.4)[0]
    data, point = LAW.posterior(x, 1.0), LAW.posterior(x, 0.0)
    assert jnp.allclose(data.means, LAW.means, atol=1e-13) and jnp.allclose(data.variances, LAW.variances, atol=1e-13)
    assert jnp.allclose(point.sample(KEY), x, atol=1e-12)
    _, log_z = point.tilted(jnp.array([0.3, -0.2, 0.5]))
    assert log_z == pytest.approx(float(x @ jnp.array([0.3, -0.2, 0.5])), abs=1e-12)


LINEAR, ROOT = jnp.array([0.4, -0.7, 0.2]), jnp.array([[0.5, 0.1, -0.3], [0.0, 0.8, 0.4]])
REWARDS = {
    "linear": (LINEAR, None),
    "quadratic": (LINEAR, ROOT),
    "narrow": (0 * LINEAR, 30 * ROOT),
    "of every direction": (LINEAR, jnp.concatenate([ROOT, ROOT[::-1] * 0.7 + 0.1])),
}
rewards = pytest.mark.parametrize("name", REWARDS)


def reward(name, x):
    linear, root = REWARDS[name]
    return x @ linear - (0.0 if root is None else jnp.sum((root @ x) ** 2) / 2)


@rewards
def test_a_tilt_is_the_density_times_the_reward(name):
    tilted, log_z = LAW.tilted(*REWARDS[name])
    for x in points(0.0):
        expected = LAW.log_density(x) + reward(name, x) - log_z
        assert tilted.log_density(x) == pytest.approx(float(expected), abs=2e-9)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_the_normaliser_of_a_tilt_is_a_mean(name):
    x = jax.vmap(LAW.sample)(jax.random.split(jax.random.key(4), 100_000))
    values = jnp.exp(jax.vmap(functools.partial(reward, name))(x))
    _, log_z = LAW.tilted(*REWARDS[name])
    assert abs(jnp.mean(values) - jnp.exp(log_z)) < 4 * jnp.std(values) / len(x) ** 0.5


@pytest.mark.parametrize("name", ["linear", "quadratic"])
@at_times
def test_the_value_steers_the_velocity(name, t):
    """grad V = score* - score, v* = v - t / (1-t) grad V is the tilted law's own velocity, and V is the log Z of the
    tilted posterior."""
    tilted, log_z = LAW.tilted(*REWARDS[name])
    t, x = jnp.asarray(t), points(t)[2]
    found, slope = jax.value_and_grad(lambda x: value(LAW, tilted, log_z, x, t))(x)
    assert jnp.allclose(slope, tilted.score(x, t) - LAW.score(x, t), atol=1e-9)
    assert jnp.allclose(tilted.velocity(x, t), LAW.velocity(x, t) - t / (1 - t) * slope, atol=1e-9)
    posterior = LAW.posterior(x, t)
    of_posterior, log_mean = posterior.tilted(*REWARDS[name])
    assert found == pytest.approx(float(log_mean), abs=1e-9)
    assert jnp.allclose(of_posterior.mean, tilted.posterior(x, t).mean, atol=1e-9)


OBSERVATIONS = {
    "one number": jnp.array([[0.5, 0.1, -0.3]]),
    "two": ROOT,
    "all": jnp.eye(3),
    "more than there are": jnp.concatenate([ROOT, ROOT[::-1] * 0.7 + 0.1]),
}


@pytest.mark.parametrize("std", [1.0, 0.1, 0.001])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_an_observation_obeys_bayes(name, std):
    """p(x0 | y) p(y) = p(x0) N(y; A x0, std^2), and the evidence against the dense mixture."""
    A = OBSERVATIONS[name]
    x0 = LAW.sample(jax.random.key(6))
    y = A @ x0 + std * jax.random.normal(jax.random.key(7), A.shape[:1])
    posterior, evidence = LAW.observed(A, y, std)
    rows = len(A)
    dense = [
        weight + multivariate_normal.logpdf(y, A @ mean, A @ cov @ A.T + std**2 * jnp.eye(rows))
        for weight, mean, cov in zip(LAW.log_weights, LAW.means, COVARIANCES, strict=True)
    ]
    likelihood = multivariate_normal.logpdf(y, A @ x0, std**2 * jnp.eye(rows))
    tolerance = 1e-9 / std**2  # of the dense forms, which cancel
    assert evidence == pytest.approx(float(logsumexp(jnp.stack(dense))), abs=tolerance)
    joint = float(LAW.log_density(x0) + likelihood)
    assert posterior.log_density(x0) + evidence == pytest.approx(joint, abs=tolerance)


def test_observing_x_t_is_the_posterior_and_two_observations_are_one():
    t, x = 0.6, points(0.6)[3]
    observed, evidence = LAW.observed((1 - t) * jnp.eye(DIM), x, t)
    posterior, x0 = LAW.posterior(x, t), LAW.sample(jax.random.key(8))
    assert observed.log_density(x0) == pytest.approx(float(posterior.log_density(x0)), abs=1e-9)
    assert evidence == pytest.approx(float(LAW.log_density(x, t)), abs=1e-10)
    y = ROOT @ x0
    first, _ = LAW.observed(ROOT, y, 0.3)
    then, _ = LAW.posterior(x, t).observed(ROOT, y, 0.3)
    assert first.posterior(x, t).log_density(x0) == pytest.approx(float(then.log_density(x0)), abs=1e-9)


def test_in_float32_small_variances_and_the_ends_of_time_are_right():
    """Against float64: the observation form loses nothing where a difference of covariances would lose 6 %."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), mixture(0.03))
    double = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), half)
    for t in (0.0, 0.001, 0.3, 0.999, 1.0):
        x = points(t).astype(jnp.float32)
        low = jax.vmap(lambda x, t=t: half.velocity(x, jnp.float32(t)))(x)
        high = jax.vmap(lambda x, t=t: double.velocity(x, jnp.float64(jnp.float32(t))))(x.astype(jnp.float64))
        assert jnp.max(jnp.abs(low.astype(jnp.float64) - high)) < 2e-5
    A, y = ROOT, jnp.array([0.2, -0.1])
    low, _ = half.observed(A.astype(jnp.float32), y.astype(jnp.float32), jnp.float32(0.003))
    high, _ = double.observed(A, y, jnp.float64(jnp.float32(0.003)))
    order = np.argsort(np.asarray(high.variances), axis=1)
    ratio = np.take_along_axis(np.asarray(low.variances), order, 1) / np.take_along_axis(
        np.asarray(high.variances), order, 1
    )
    assert np.max(np.abs(ratio - 1)) < 1e-4


def test_a_class_is_its_components_and_all_classes_are_the_law():
    classes = [LAW.of_components(np.array(rows)) for rows in ([0, 2], [1, 3])]
    shares = [jnp.sum(jnp.exp(LAW.log_weights[np.array(rows)])) for rows in ([0, 2], [1, 3])]
    t, x = jnp.asarray(0.4), points(0.4)[0]
    together = logsumexp(
        jnp.stack([jnp.log(a) + law.log_density(x, t) for a, law in zip(shares, classes, strict=True)])
    )
    assert together == pytest.approx(float(LAW.log_density(x, t)), abs=1e-12)
    weights = jax.nn.softmax(
        jnp.stack([jnp.log(a) + law.log_density(x, t) for a, law in zip(shares, classes, strict=True)])
    )
    mixed = sum(w * law.velocity(x, t) for w, law in zip(weights, classes, strict=True))
    assert jnp.allclose(mixed, LAW.velocity(x, t), atol=1e-12)


def test_a_marginal_is_the_law_of_the_leading_coordinates():
    two = LAW.marginal(2)
    cov = two.covariance
    assert jnp.allclose(two.mean, LAW.mean[:2]) and jnp.allclose(cov, LAW.covariance[:2, :2], atol=1e-12)
    x = points(0.3)[0][:2]
    dense = logsumexp(
        jnp.stack(
            [
                weight + multivariate_normal.logpdf(x, mean[:2], cov[:2, :2])
                for weight, mean, cov in zip(LAW.log_weights, LAW.means, COVARIANCES, strict=True)
            ]
        )
    )
    assert two.log_density(x) == pytest.approx(float(dense), abs=1e-11)
    with pytest.raises(ValueError, match="1 to 3 coordinates, not 4"):
        LAW.marginal(4)


def test_sharpening_multiplies_variances():
    assert jnp.allclose(LAW.sharpened(0.25).variances, LAW.variances / 4)
    assert jnp.array_equal(LAW.sharpened(0.25).means, LAW.means)


def test_the_likelihood_through_the_ode():
    """log p0(x0) = log N(F(x0, 0, 1)) + integral of div v from 0 to 1 along the path."""
    x0 = points(0.0)[1]

    def field(state, t):
        return jnp.append(LAW.velocity(state[:DIM], t), LAW.divergence(state[:DIM], t))

    end = OdeMap(field, 1e-10)(jnp.append(x0, 0.0), 0.0, 1.0)
    log_noise = jnp.sum(jax.scipy.stats.norm.logpdf(end[:DIM]))
    assert log_noise + end[DIM] == pytest.approx(float(LAW.log_density(x0)), abs=1e-6)


# --- points: variances of zero ---------------------------------------------------------------------------------------


def with_points(dtype=float):
    """Component 0 is a point, 1 one in two directions, 2 in one, 3 in none."""
    flat = jnp.array([[True] * 3, [True, True, False], [True, False, False], [False] * 3])
    law = GaussianMixtureMap(LAW.log_weights, LAW.means, LAW.axes, jnp.where(flat, 0.0, LAW.variances), 1e-10)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), law)


def on_component(law, k, key=KEY):
    return law.means[k] + law.axes[k] @ (jnp.sqrt(law.variances[k]) * jax.random.normal(key, (DIM,), law.means.dtype))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e4])
def test_a_point_of_a_component_without_spread_is_told(dtype, scale):
    law = with_points(dtype)
    law = law.replaced(law.log_weights, scale * law.means, law.axes, scale**2 * law.variances)
    for k in range(MODES):
        for key in jax.random.split(KEY, 5):
            x = on_component(law, k, key)
            assert law.component(x) == k
            assert jnp.array_equal(law.centre(x), law.means[k])


def test_two_points():
    law = GaussianMixtureMap(jnp.log(jnp.array([0.9, 0.1])), jnp.eye(2), jnp.stack([jnp.eye(2)] * 2), jnp.zeros((2, 2)))
    assert [law.component(x) for x in jnp.eye(2)] == [0, 1]
    assert jnp.allclose(jnp.exp(law.posterior(jnp.eye(2)[1], 0.0).log_weights), jnp.array([0.0, 1.0]))


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_at_the_data_the_posterior_is_the_point_also_of_a_law_with_points(off):
    law = with_points()
    for k in range(MODES):
        x = on_component(law, k) + off
        posterior = eqx.filter_jit(law.posterior)(x, 0.0)
        assert jnp.allclose(posterior.means, x[None], atol=1e-13) and not jnp.any(posterior.variances)
        assert jnp.sum(jnp.exp(posterior.log_weights)) == pytest.approx(1, abs=1e-12)
        assert jnp.allclose(posterior.mean, x, atol=1e-13)


@pytest.mark.parametrize("t", [1e-3, 0.3, 1.0])
def test_of_points_all_is_the_limit_of_small_variances(t):
    law, x = with_points(), points(t)[0]
    near = law.replaced(law.log_weights, law.means, law.axes, law.variances + 1e-13)
    for name in ("velocity", "score", "log_density", "divergence", "denoise"):
        exact = getattr(law, name)(x, t)
        assert jnp.allclose(exact, getattr(near, name)(x, t), rtol=1e-5, atol=1e-5)
    assert jnp.allclose(law.posterior(x, t).mean, law.denoise(x, t), atol=1e-11)
    assert jnp.all(jnp.isfinite(law(x, t, 0.5)))


def test_at_the_data_a_law_with_points_has_no_density():
    """As its docstring says: NaN at every x, and no solution of the ODE."""
    law, x = with_points(), points(0.5)[0]
    for s, t in [(1.0, 0.0), (0.0, 1.0)]:
        with pytest.raises(eqx.EquinoxRuntimeError):
            law(x, s, t)
    for name in ("velocity", "denoise", "divergence", "score", "log_density"):
        assert jnp.all(jnp.isnan(getattr(law, name)(x, 0.0)))


def test_gradients_at_the_data_stay_finite():
    def summary(law, x, t):
        posterior = law.posterior(x, t)
        return jnp.sum(posterior.mean) + jnp.sum(posterior.variances) + jnp.sum(jnp.exp(posterior.log_weights) ** 2)

    for law in (LAW, with_points()):
        for t in (0.0, 0.4):
            found = eqx.filter_grad(lambda all_, law=law: summary(*all_))((law, on_component(law, 1), jnp.asarray(t)))
            assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("t", [0.0, 0.3, np.float64(0.3), jnp.float64(0.3)])
def test_a_float32_law_answers_in_float32(t):
    law = with_points(jnp.float32)
    x = on_component(law, 2)
    assert {leaf.dtype for leaf in jax.tree.leaves(law.posterior(x, t))} == {jnp.dtype(jnp.float32)}
    for name in ("velocity", "score", "log_density", "divergence"):
        assert getattr(law, name)(x, t).dtype == jnp.float32


# --- near a subspace -------------------------------------------------------------------------------------------------

ENTRIES, TAU = 5, 0.2
AXES = jnp.linalg.qr(jax.random.normal(jax.random.key(12), (ENTRIES, DIM)))[0]
SUBSPACE = SubspaceMap(LAW, AXES, TAU, (ENTRIES,))


def dense_subspace():
    """The same law as one mixture in all directions."""
    whole = jnp.concatenate([AXES, jnp.linalg.svd(AXES, full_matrices=True)[0][:, DIM:]], axis=1)
    inside = jnp.pad(LAW.axes, ((0, 0), (0, ENTRIES - DIM), (0, ENTRIES - DIM)))
    rest = jnp.zeros((ENTRIES, ENTRIES)).at[jnp.arange(DIM, ENTRIES), jnp.arange(DIM, ENTRIES)].set(1.0)
    axes = jnp.einsum("ij,kjl->kil", whole, inside + rest[None])
    variances = jnp.pad(LAW.variances, ((0, 0), (0, ENTRIES - DIM)), constant_values=TAU**2)
    return GaussianMixtureMap(LAW.log_weights, LAW.means @ AXES.T, axes, variances, 1e-10)


@pytest.mark.parametrize("t", [0.001, 0.3, 0.99])
def test_the_subspace_splits_what_a_dense_mixture_is(t):
    dense, x = dense_subspace(), jax.random.normal(jax.random.key(13), (ENTRIES,))
    t = jnp.asarray(t)
    assert jnp.allclose(SUBSPACE.velocity(x, t), dense.velocity(x, t), atol=1e-11)
    assert jnp.allclose(SUBSPACE.score(x, t), dense.score(x, t), rtol=1e-9, atol=1e-9)
    assert SUBSPACE.log_density(x, t) == pytest.approx(float(dense.log_density(x, t)), abs=1e-8)
    assert jnp.allclose(SUBSPACE(x, 1.0, t), dense(x, 1.0, t), atol=1e-8)
    assert SUBSPACE.component(x) == dense.component(x)


def test_samples_of_the_subspace_have_the_dense_covariance():
    x = jax.vmap(SUBSPACE.sample)(jax.random.split(KEY, 50_000))
    assert jnp.allclose(jnp.cov(x.T), dense_subspace().covariance, atol=0.05)
    assert isinstance(SUBSPACE.rest, GaussianMap)
