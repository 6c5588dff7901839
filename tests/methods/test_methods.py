"""What every row of the table must obey. A new row earns all of it by being in `METHODS`."""

import dataclasses
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import disturbed, gaussian, gradient, leaves, small_net, z_scores

from flowcore import METHODS, AverageVelocityMap, Objective, Term, WithAuxiliary, method, methods, objective
from flowcore.calculus import stop_gradients
from flowcore.methods import table
from flowcore.objectives.context import Context

# the denoiser is no row but obeys it too; AYF-EMD is asked after its warm-up, which regularises, and PID on a grid so
# fine that its chord is a slope
RECIPES = {"flow matching": methods.flow_matching_terms} | {row.name: row.terms for row in METHODS}
RECIPES |= {"AYF-EMD": lambda: methods.ayf_emd_terms(warmup=1.0), "PID": lambda: methods.pid_terms(steps=10**6)}
CHORD = {"PID": 1e-4}  # how far its sides stay apart at the exact map
MARGINAL = ["flow matching"] + [row.name for row in METHODS if row.setting == table.MARGINAL]

rows = pytest.mark.parametrize("name", RECIPES)


def exact_but(offset=0.0):
    """The exact map with a network's gradient, and one like it as auxiliary for the methods that train a second one."""
    return WithAuxiliary(disturbed(gaussian(), offset), disturbed(gaussian(), offset))


def with_exact_step(equality, exact):
    """The equality, its finite step (where it takes one) made by the exact map: then it holds to rounding too."""
    plain, bound = getattr(equality, "func", equality), getattr(equality, "keywords", {})
    if "solver" not in inspect.signature(plain).parameters:
        return equality
    return eqx.Partial(plain, **bound | {"solver": lambda v: exact})


def exact_terms(name, exact) -> tuple[Term, ...]:
    """The row's terms, asking the exact map for the velocity and for the step whatever their setting."""

    def ask(term):
        equality = with_exact_step(term.equality, exact)
        return dataclasses.replace(term, equality=equality, velocity=lambda context: context.teacher.velocity)

    return tuple(map(ask, RECIPES[name]()))


def sides(term: Term, model, exact, n=64):
    """Both sides of the term's equality at times from its own law and at points that need not be on the path."""
    key_times, key_x, key_eps, key = jax.random.split(jax.random.key(1), 4)
    times = term.times(key_times, n, 0.5)
    x0, eps = (1.5 * jax.random.normal(k, (n, 2)) for k in (key_x, key_eps))

    @jax.jit
    @jax.vmap
    def both(x0, eps, key, *times):
        return term.sides(model, Context(model, exact, x0, eps, times, 0.5, key))

    return both(x0, eps, jax.random.split(key, n), *times)


def objective_gradient(name, model, exact):
    x0 = jax.vmap(exact.sample)(jax.random.split(jax.random.key(2), 64))
    key = jax.random.key(3)
    loss = Objective(exact_terms(name, exact))
    return gradient(lambda m: loss(m, x0, target=stop_gradients(model), teacher=exact, progress=0.5, key=key)[0], model)


@rows
def test_at_the_exact_map_both_sides_agree(name):
    exact = gaussian()
    for term in exact_terms(name, exact):
        left, right = sides(term, exact_but(), exact)
        assert left.shape == right.shape == (64, 2)
        assert jnp.max(jnp.abs(left - right)) < CHORD.get(name, 1e-10)


@rows
def test_away_from_the_exact_map_the_sides_differ(name):
    """The power of the test above: an error of 1e-2 in V is seen by every term, in a finite step its share of it."""
    exact = gaussian()
    for term in exact_terms(name, exact):
        left, right = sides(term, exact_but(offset=1e-2), exact)
        assert jnp.max(jnp.abs(left - right)) > 1e-4


@rows
def test_the_exact_map_is_stationary(name):
    """No gradient at the exact map, beside that of an error of 1e-2 in V."""
    exact = gaussian()
    there = jnp.linalg.norm(objective_gradient(name, exact_but(), exact))
    near = jnp.linalg.norm(objective_gradient(name, exact_but(offset=1e-2), exact))
    assert near > 1e-4
    assert there < CHORD.get(name, 1e-9) * near


@pytest.mark.parametrize("name", MARGINAL)
def test_with_the_conditional_velocity_the_exact_map_is_stationary_on_average(name):
    z = z_scores(Objective(RECIPES[name]()), gaussian())
    assert jnp.max(jnp.abs(z)) < 4


@rows
def test_target_and_teacher_are_given_no_gradient(name):
    """The gradient in the model is the same whether the very model that is differentiated stands in for both, or copies
    of it do: a term stops them itself."""
    exact = gaussian()
    model, loss, key = exact_but(offset=0.1), Objective(RECIPES[name]()), jax.random.key(5)
    x0 = jax.vmap(exact.sample)(jax.random.split(key, 16))
    live = gradient(lambda m: loss(m, x0, target=m, teacher=m, key=key)[0], model)
    copies = gradient(
        lambda m: loss(m, x0, target=stop_gradients(model), teacher=stop_gradients(model), key=key)[0], model
    )
    assert jnp.linalg.norm(live) > 0
    # a gradient that leaks is as large as the rest; a chord of PID's finest interval divides rounding by 1e-6
    assert jnp.linalg.norm(live - copies) < 1e-8 * jnp.linalg.norm(live)


@rows
def test_loss_and_gradient_are_finite_under_the_rows_own_law_from_first_to_last_step(name):
    exact = gaussian()
    model, loss, key = exact_but(offset=0.1), Objective(RECIPES[name]()), jax.random.key(6)
    x0 = jax.vmap(exact.sample)(jax.random.split(key, 16))

    @jax.jit
    @jax.vmap
    def both(progress):
        def value(m):
            return loss(m, x0, target=model, teacher=exact, progress=progress, key=key)[0]

        return eqx.filter_value_and_grad(value)(model)

    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in leaves(both(jnp.array([0.0, 0.5, 1.0]))))


@rows
def test_terms_are_pure(name):
    """The same key gives the same loss, another key another one."""
    exact = gaussian()
    nets = (AverageVelocityMap(small_net(seed)) for seed in (0, 1))
    model, loss = WithAuxiliary(*nets), Objective(RECIPES[name]())
    x0 = jax.vmap(exact.sample)(jax.random.split(jax.random.key(7), 16))
    value = eqx.filter_jit(lambda key: loss(model, x0, target=model, teacher=exact, key=key)[0])
    once, again, other = (value(jax.random.key(seed)) for seed in (1, 1, 2))
    assert once == again != other


def test_the_table_is_the_surveys():
    """21 rows, 14 papers, in the survey's order: by rule, and every acronym once."""
    assert len(METHODS) >= 21
    survey = METHODS[:21]
    assert len({row.name for row in METHODS}) == len(METHODS)
    assert len({row.paper for row in survey}) == 14
    assert [row.rule for row in survey] == ["Lagrangian"] * 6 + ["Eulerian"] * 10 + ["compositional"] * 5


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_a_row_says_known_things(row):
    assert row.rule in (table.L, table.E, table.C)
    assert row.setting in (table.DISTILL, table.SELF, table.MARGINAL)
    assert row.output in ("V", "F")


def test_method_finds_a_row_in_any_case():
    assert method("mf") is method("MF")
    assert method("MF").title == "MeanFlow"


def test_method_names_the_rows_there_are():
    with pytest.raises(KeyError, match="no method 'nonsense'.*MF, iMF"):
        method("nonsense")


@pytest.mark.parametrize("row", [row for row in METHODS], ids=lambda row: row.name)
def test_objective_builds_the_rows_terms(row):
    built = objective(row)
    assert isinstance(built, Objective)
    assert [term.name for term in built.terms] == [term.name for term in row.terms()]


@pytest.mark.parametrize("row", [row for row in METHODS], ids=lambda row: row.name)
def test_every_setting_of_a_row_has_a_default(row):
    """So that the table can be walked without knowing any method."""
    assert all(p.default is not p.empty for p in inspect.signature(row.terms).parameters.values())


def test_the_share_of_the_diagonal_is_a_setting():
    (term,) = objective(method("MF"), diagonal=0.25).terms
    s, t = term.times(jax.random.key(0), 100, 0.0)
    assert jnp.sum(s == t) == 25


def test_terms_are_modules_that_jit_can_take_as_arguments():
    """An objective goes through jit and back whole: what makes equal objectives share one compilation."""
    loss = objective(method("MF"))
    assert eqx.filter_jit(lambda loss: loss)(loss).terms[0].equality is loss.terms[0].equality
