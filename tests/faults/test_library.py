"""What a user can ask of the library that cannot be: one line that names the thing, the value and what to do.

All that is asked here is refused before anything is compiled, but for the rows that say so. Shape checks at run time,
which users do not have, are off.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

from flowcore import (
    AverageVelocityMap,
    DenoisedMap,
    DiT,
    GaussianMap,
    GaussianMixtureMap,
    GuidedMap,
    MixtureMap,
    Objective,
    OdeMap,
    RepeatedMap,
    ResidualMLP,
    Term,
    UNet,
    checkerboard,
    exact,
    fit,
    flow_matching,
    guidance,
    method,
    metrics,
    objective,
    sample,
    schedules,
    squared,
    tasks,
    teachers,
    times,
    training,
)
from flowcore.checks import check
from flowcore.data import Labelled, Paired, SampledSource, ShuffledSource, scale
from flowcore.networks import NETWORKS, source_and_level
from flowcore.objectives.context import Context
from flowcore.training import Recipe

KEY = jax.random.key(0)
EXACT = GaussianMap(jnp.zeros(2), 0.5)
POINTS = jnp.zeros((8, 2))
SGD = optax.sgd(0.1)
NAN = float("nan")


@pytest.fixture(autouse=True, scope="module")
def as_users_do():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Weight(eqx.Module):
    """The smallest model."""

    w: jax.Array


def pull(model, x0, *, target, teacher, progress, key):
    value = jnp.mean(x0) * jnp.sum(model.w)
    return value, {"pull": value}


def begin(optimiser=SGD, **settings):
    return training.begin(Weight(jnp.ones(2)), optimiser, **{"key": KEY} | settings)


def full_mixture(**settings):
    means, axes = jnp.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), jnp.broadcast_to(jnp.eye(2), (3, 2, 2))
    law = {"log_weights": jnp.zeros(3), "means": means, "axes": axes, "variances": jnp.ones((3, 2))}
    return GaussianMixtureMap(**law | settings)


def train(objective=pull, source=None, optimiser=SGD, **settings):
    source = source or SampledSource(lambda key: jax.random.normal(key, (2,)), 4)
    return list(fit(begin(), objective, source, optimiser, **{"steps": 2} | settings))


def term(**settings):
    return Term(flow_matching, times.diagonal(), **settings)


def ask(net, x, condition=None):
    return jax.vmap(lambda x: AverageVelocityMap(net).average_velocity(x, 0.9, 0.2, *condition or ()))(x)


def lose(loss, rows=8):
    model = AverageVelocityMap(ResidualMLP(2, 4, 1, key=KEY))
    return loss(model, jnp.zeros((rows, 2)), target=model, key=KEY)


def train_model(model):
    source = SampledSource(EXACT.sample, 4)
    return list(fit(training.begin(model, SGD, key=KEY), Objective((term(),)), source, SGD, steps=2))


def image_net(make, **settings):
    return make((4, 4, 1), width=8, depth=1, **settings, key=KEY)


def with_nan():
    return SampledSource(lambda key: jnp.full(2, jnp.nan), 4)


def unlabelled():
    return guidance.class_condition(3)(Context(None, None, jnp.zeros(2), jnp.zeros(2), (), 0.0, KEY))


# what is asked, the error, and the words that its message must have; "; " stands between them
ROWS = {
    # networks
    "mlp, other points": (
        lambda: ask(ResidualMLP(64, 4, 1, key=KEY), jnp.zeros((3, 4))),
        "64 numbers; shape (4,); vmap",
    ),
    "mlp, a batch": (lambda: ResidualMLP(2, 4, 1, key=KEY)(POINTS, 0.9, 0.2), "2 numbers; shape (8, 2); vmap"),
    "mlp, a condition": (
        lambda: ask(ResidualMLP(2, 4, 1, key=KEY), POINTS, (1.0,)),
        "a condition of 0 numbers, not of 1; conditions=1",
    ),
    "mlp, no condition": (
        lambda: ask(ResidualMLP(2, 4, 1, conditions=3, key=KEY), POINTS),
        "a condition of 3 numbers, not of 0; condition_on",
    ),
    "dit, other size": (
        lambda: ask(image_net(DiT), jnp.zeros((2, 8, 8, 1))),
        "shape (4, 4, 1); not of shape (8, 8, 1)",
    ),
    "dit, a point": (lambda: ask(image_net(DiT), POINTS), "shape (4, 4, 1); not of shape (2,)"),
    "dit, a condition": (lambda: ask(image_net(DiT), jnp.zeros((2, 4, 4, 1)), (1.0,)), "condition; conditions=1"),
    "unet, other channels": (lambda: ask(image_net(UNet), jnp.zeros((2, 4, 4, 3))), "(4, 4, 1); shape (4, 4, 3)"),
    "unet, other size": (lambda: ask(image_net(UNet), jnp.zeros((2, 6, 6, 1))), "(4, 4, 1); shape (6, 6, 1)"),
    "other data in training": (
        lambda: train_model(AverageVelocityMap(ResidualMLP(64, 4, 1, key=KEY))),
        "64 numbers; shape (2,)",
    ),
    "width 0": (lambda: ResidualMLP(2, 0, 1, key=KEY), "width; at least 1; not 0"),
    "width -4": (lambda: NETWORKS["mlp"]((2,), -4, 1, key=KEY), "width; at least 1; not -4"),
    "width 2.5": (lambda: ResidualMLP(2, 2.5, 1, key=KEY), "width; whole number; not 2.5"),
    "depth -1": (lambda: ResidualMLP(2, 4, -1, key=KEY), "depth; at least 0; not -1"),
    "no octaves": (lambda: ResidualMLP(2, 4, 1, octaves=0, key=KEY), "octaves; at least 1; not 0"),
    "conditions -1": (lambda: ResidualMLP(2, 4, 1, conditions=-1, key=KEY), "conditions; at least 0; not -1"),
    "patch 0": (lambda: image_net(DiT, patch=0), "patch; at least 1; not 0"),
    "heads 0": (lambda: image_net(DiT, heads=0), "heads; at least 1; not 0"),
    "heads that do not divide": (lambda: image_net(DiT, heads=3), "3 heads; width of 8"),
    "a net of images for points": (lambda: NETWORKS["dit"]((2,), 8, 1, key=KEY), "'dit'; (2,); take 'mlp'"),
    "levels 0 of a clock": (lambda: source_and_level(0), "levels; at least 1; not 0"),
    # training
    "no steps": (lambda: train(steps=0), "steps; at least 1; not 0"),
    "half a step": (lambda: train(steps=2.5), "steps; whole number; not 2.5"),
    "no chunk": (lambda: train(chunk=0), "chunk; at least 1; not 0"),
    "average_decay 2": (lambda: train(average_decay=2.0), "average_decay; in [0, 1]; not 2.0"),
    "target_decay 2": (lambda: begin(target_decay=2.0), "target_decay; in [0, 1]; not 2.0"),
    "another target_decay": (lambda: train(target_decay=0.9), "target_decay; 0.9; give both the same"),
    "another optimiser": (lambda: train(optimiser=optax.adam(0.1)), "another optimiser; give; the same"),
    "a teacher by name": (lambda: train(teacher="exact"), "teacher; flow map; 'exact'"),
    "an old key": (lambda: begin(key=jax.random.PRNGKey(0)), "key; jax.random.key(0); PRNGKey"),
    "a number as key": (lambda: begin(key=0), "key; jax.random.key(0); not 0"),
    "rate -1": (lambda: training.adam(-1.0, 10), "rate; above 0; not -1.0"),
    "rate NaN": (lambda: training.adam(NAN, 10), "rate; above 0; not nan"),
    "clip 0": (lambda: training.adam(0.1, 10, clip=0.0), "clip; above 0; not 0.0"),
    "no devices": (lambda: training.data_parallel([]), "devices; at least one"),
    "recipe of no steps": (lambda: Recipe(steps=0).begin((2,)), "steps; above 0; not 0"),
    "recipe of fewer": (lambda: Recipe(steps=-1), "steps; at least 0; not -1"),
    "recipe of batch 0": (lambda: Recipe(batch=0), "batch; at least 1; not 0"),
    "recipe of width 0": (lambda: Recipe().replace(width=0), "width; at least 1; not 0"),
    "recipe of rate NaN": (lambda: Recipe(rate=NAN), "rate; above 0; not nan"),
    "recipe of a huge seed": (lambda: Recipe(seed=10**20), "seed; [0, 4294967294]; not 100000000000000000000"),
    "recipe of an unknown net": (lambda: Recipe("nope").begin((2,)), "'nope'; take one of; 'mlp'", KeyError),
    "classifier of no classes": (lambda: teachers.Classifier(classes=0), "classes; at least 1; not 0"),
    "NaN in the data, compiled": (
        lambda: train(source=with_nan()),
        "pull; step 0; the data are not",
        training.Diverged,
    ),
    # objectives
    "share 2": (lambda: term(share=2), "share of a Term; in [0, 1]; not 2"),
    "every 0": (lambda: term(every=0), "every of a Term; at least 1; not 0"),
    "group 0": (lambda: term(group=0), "group of a Term; at least 1; not 0"),
    "a group that does not divide": (
        lambda: lose(Objective((term(group=3, distance=squared),))),
        "groups of 3; 8 rows; flow_matching; change",
    ),
    "no terms": (lambda: Objective(()), "terms of an Objective; at least one; not ()"),
    "a term that is not in a tuple": (lambda: Objective(term()), "terms of an Objective; a tuple; one Term"),
    "a method by name": (lambda: objective("LMD"), "flowcore.objective(flowcore.method('LMD'))"),
    "an unknown method": (lambda: method("nope"), "'nope'; MF", (KeyError, ValueError)),
    "no teacher": (lambda: lose(objective(method("LMD"))), "distils; pass teacher="),
    "share 1.5": (lambda: times.partly_diagonal(times.ordered(), 1.5), "share of partly_diagonal; [0, 1]; not 1.5"),
    "std 0 of times": (lambda: times.logit_normal(0.0, 0.0), "std of logit_normal; above 0; not 0.0"),
    "chords of none": (lambda: times.chords(schedules.even, 0), "steps of chords; at least 1; not 0"),
    "dyadic 0": (lambda: times.dyadic(0), "levels of dyadic; at least 1; not 0"),
    "end 2": (lambda: times.to_data(end=2.0), "end of to_data; in [0, 1]; not 2.0"),
    "source 0": (lambda: times.from_source(0.0), "s of from_source; in (0, 1]; not 0.0"),
    "gap 0": (lambda: times.within(times.ordered(), 0.0), "gap of within; above 0; not 0.0"),
    "base 1": (lambda: times.easy_consistency(times.uniform, 0, base=1.0), "base; above 1; not 1.0"),
    "neighbours of none": (lambda: times.neighbours(schedules.even, 0), "steps of neighbours; at least 1; not 0"),
    "given 2": (lambda: times.given(2.0, 0.0), "a time of given; in [0, 1]; not 2.0"),
    "karras 0": (lambda: schedules.karras(0.5, low=0.0), "low of karras; above 0; not 0.0"),
    "karras upside down": (lambda: schedules.karras(0.5, 80.0, 0.002), "high of karras; above 80; not 0.002"),
    "exponential from 0": (lambda: schedules.exponential(0.0, 1.0), "first of exponential; above 0; not 0.0"),
    "warm for no time": (lambda: schedules.linear_warmup(1.0, 0.0), "until of linear_warmup; in (0, 1]; not 0.0"),
    "no intervals": (lambda: schedules.consistency_intervals(0), "first of consistency_intervals; at least 1; not 0"),
    "fewer intervals": (
        lambda: schedules.improved_consistency_intervals(10, 5),
        "last of improved_consistency_intervals; at least 10; not 5",
    ),
    "decay 2": (lambda: schedules.consistency_decay(10, decay=2.0), "decay of consistency_decay; (0, 1]; not 2.0"),
    "a label of other classes": (
        lambda: guidance.guidance_condition(10, 10, 2.0),
        "label of 10 classes; [0, 9]; not 10",
    ),
    "scale 0": (lambda: guidance.guidance_condition(1, 10, 0.0), "scale of guidance; at least 1; not 0.0"),
    "an interval upside down": (
        lambda: guidance.guidance_condition(1, 10, 2.0, (0.8, 0.2)),
        "interval; low <= high; (0.8, 0.2)",
    ),
    "drop_rate 2": (lambda: guidance.class_condition(10, 2.0), "drop_rate; in [0, 1]; not 2.0"),
    "self_share 1": (lambda: guidance.guided_velocity(1.0, 1.0), "self_share of guided_velocity; [0, 1); not 1.0"),
    "no labels": (unlabelled, "labels; Labelled(x0, label)"),
    # maps and samplers
    "tolerance 0": (lambda: OdeMap(EXACT.velocity, 0.0), "tolerance of an OdeMap; above 0; not 0.0"),
    "count 0": (lambda: RepeatedMap(EXACT, 0), "count of a RepeatedMap; at least 1; not 0"),
    "floor 0": (lambda: DenoisedMap(None, 0.0), "floor of a DenoisedMap; (0, 1]; not 0.0"),
    "std 0": (lambda: GaussianMap(jnp.zeros(2), 0.0), "std of a GaussianMap; above 0; not 0.0"),
    "std -1": (lambda: GaussianMap(jnp.zeros(2), -1.0), "std of a GaussianMap; above 0; not -1.0"),
    "std of two": (lambda: GaussianMap(jnp.zeros(2), jnp.ones(2)), "std of a GaussianMap; one number; (2,)"),
    "means of one point": (lambda: MixtureMap(jnp.zeros(2), 0.1), "means of a MixtureMap; (modes, dim); not (2,)"),
    "no means": (lambda: MixtureMap(jnp.zeros((0, 2)), 0.1), "means of a MixtureMap; (modes, dim); not (0, 2)"),
    "std 0 of a mixture": (lambda: MixtureMap(jnp.zeros((3, 2)), 0.0), "std of a MixtureMap; above 0; not 0.0"),
    "means of one point of a law": (
        lambda: full_mixture(means=jnp.zeros(2)),
        "means of a GaussianMixtureMap; (modes, dim); not (2,)",
    ),
    "other weights": (
        lambda: full_mixture(log_weights=jnp.zeros(2)),
        "log_weights of a GaussianMixtureMap; (3,); not (2,)",
    ),
    "axes of one": (lambda: full_mixture(axes=jnp.eye(2)), "axes of a GaussianMixtureMap; (3, 2, 2); not (2, 2)"),
    "isotropic variances": (
        lambda: full_mixture(variances=jnp.ones(3)),
        "variances of a GaussianMixtureMap; (3, 2); not (3,)",
    ),
    "variance -1": (
        lambda: full_mixture(variances=-jnp.ones((3, 2))),
        "variance of a GaussianMixtureMap; at least 0; not -1.0",
    ),
    "tolerance 0 of a law": (
        lambda: full_mixture(tolerance=0.0),
        "tolerance of a GaussianMixtureMap; above 0; not 0.0",
    ),
    "sharpened by 0": (lambda: full_mixture().sharpened(0.0), "factor of sharpened variances; above 0; not 0.0"),
    "observed by -1": (
        lambda: full_mixture().observed(jnp.eye(2), jnp.zeros(2), -0.1),
        "std of an observation; above 0; not -0.1",
    ),
    "times that turn": (
        lambda: OdeMap(EXACT.velocity).trajectory(POINTS[0], jnp.array([1.0, 0.2, 1.0])),
        "times of a trajectory; rise or fall; not [1. , 0.2, 1. ]",
    ),
    "many times that turn": (
        lambda: OdeMap(EXACT.velocity).trajectory(POINTS[0], jnp.sin(jnp.arange(100))),
        "times of a trajectory; rise or fall; ...",
    ),
    "no times": (lambda: OdeMap(EXACT.velocity).trajectory(POINTS[0], jnp.zeros(0)), "rise or fall; not []"),
    "generate a trajectory": (
        lambda: sample.generate(EXACT, POINTS, 4, sample.trajectory),
        "a sampler returns a point (2,); not (5, 2); vmap; trajectory",
    ),
    "no modes": (lambda: exact.ring(0), "modes of a ring; at least 1; not 0"),
    "an odd board": (lambda: checkerboard(KEY, 3), "squares of a checkerboard; even; not 3"),
    "two of three conditions": (
        lambda: GuidedMap(EXACT, EXACT).condition_on((2.0, 1)),
        "condition of a GuidedMap; tuple of 2; (scale, condition of the strong map",
    ),
    "a vector of scales": (lambda: GuidedMap(EXACT, EXACT).condition_on(jnp.ones(3)), "scale; one number; (3,)"),
    "scale NaN": (lambda: GuidedMap(EXACT, EXACT, NAN), "scale of a GuidedMap; finite; not nan"),
    "gamma 2": (lambda: sample.gamma(2.0), "share of gamma; in [0, 1]; not 2.0"),
    "consistency 2": (lambda: sample.consistency(2.0), "end of consistency; in [0, 1); not 2.0"),
    "0 steps": (lambda: sample.generate(EXACT, POINTS, 0), "steps; at least 1; not 0"),
    "0 equal steps": (lambda: sample.equal_steps(0), "steps; at least 1; not 0"),
    # metrics
    "errors of other shapes": (lambda: metrics.endpoint_error(jnp.ones((4, 2)), jnp.ones((1, 2))), "(4, 2); (1, 2)"),
    "one sample": (lambda: metrics.energy_distance(jnp.ones((1, 2)), POINTS), "two points; not 1 and 8"),
    "features of one": (lambda: metrics.frechet_distance(jnp.ones((1, 2)), POINTS), "two points; not 1 and 8"),
    "energy of other points": (
        lambda: metrics.energy_distance(POINTS, jnp.zeros((8, 3))),
        "energy_distance; one space; (2,) and (3,)",
    ),
    "features of others": (
        lambda: metrics.frechet_distance(POINTS, jnp.zeros((8, 3))),
        "frechet_distance; one space; (2,) and (3,)",
    ),
    "slices of other points": (
        lambda: metrics.sliced_wasserstein(POINTS, jnp.zeros((8, 3)), key=KEY),
        "sliced_wasserstein; one space; (2,) and (3,)",
    ),
    "no projections": (
        lambda: metrics.sliced_wasserstein(POINTS, POINTS, projections=0, key=KEY),
        "projections; at least 1; not 0",
    ),
    "no bins": (lambda: metrics.histogram_kl(POINTS, POINTS, bins=0), "bins; at least 1; not 0"),
    # data
    "batch 0": (lambda: SampledSource(EXACT.sample, 0), "batch_size; at least 1; not 0"),
    "shuffled batch 0": (lambda: ShuffledSource(POINTS, 0), "batch_size; positive; not 0"),
    "batch 2.5": (lambda: ShuffledSource(POINTS, 2.5), "batch_size; whole; not 2.5"),
    "seed -1": (lambda: ShuffledSource(POINTS, 2, seed=-1), "seed; at least 0; not -1"),
    "no examples": (lambda: ShuffledSource(POINTS[:0], 2), "no examples"),
    "NaN in the examples": (lambda: ShuffledSource(POINTS.at[1].set(NAN), 2), "not finite; NaN"),
    "levels": (lambda: ShuffledSource(np.zeros((4, 2, 2, 1), np.uint8), 2), "uint8; scale; flowcore.data.scale"),
    "scaled twice": (lambda: scale(np.zeros((2, 2), np.float32)), "uint8; not float32; scaled already"),
    "noise of another shape": (
        lambda: SampledSource.of_rows(Paired(jnp.ones((4, 2)), jnp.ones((4, 1))), 2),
        "noise of a pair; (4, 2); (4, 1)",
    ),
    "too few labels": (lambda: ShuffledSource(POINTS, 2, labels=jnp.zeros(3, int)), "3 labels; 8 examples"),
    "labels from -1": (lambda: ShuffledSource(POINTS, 2, labels=jnp.arange(-1, 7)), "labels; from 0; down to -1"),
    "labels that are no integers": (
        lambda: SampledSource.of_rows(Labelled(POINTS, jnp.zeros(8)), 2),
        "labels; integers; not float64",
    ),
    "labels of other classes": (
        lambda: teachers.classifier(jnp.zeros((2, 4, 4, 1)), jnp.array([0, 7]), teachers.Classifier(classes=3)),
        "label of 3 classes; [0, 2]; not 7",
    ),
    "labels of other classes in a task": (
        lambda: tasks.Classes(2, None, jnp.arange(3)),
        "label of 2 classes; [0, 1]; not 2",
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_cannot_be_is_refused_in_one_line(row):
    call, words, *kind = row
    with pytest.raises(kind[0] if kind else ValueError) as raised:
        call()
    said = str(raised.value)
    assert "\n" not in said and len(said) < 250, said
    assert all(word in said for word in words.split("; ")), said


def test_what_is_refused_is_refused_at_once():
    """But for what is compiled: a row takes no time."""
    start = time.perf_counter()
    for name, (call, *_) in ROWS.items():
        if "compiled" not in name and "training" not in name:
            with pytest.raises((ValueError, KeyError)):
                call()
    assert time.perf_counter() - start < 15


def test_what_is_known_only_later_is_not_looked_at():
    """What is traced, what changes while training goes on, one number for each row."""
    assert jax.jit(lambda std: GaussianMap(jnp.zeros(2), std).spread(0.0))(0.0) == 0
    for value in (lambda progress: -progress, jnp.zeros(3)):
        check("this", value, above=0)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({}, "finite"),
        ({"least": 2}, "at least 2"),
        ({"above": 2}, "above 2"),
        ({"least": 2, "most": 3}, "in [2, 3]"),
        ({"above": 2, "below": 3}, "in (2, 3)"),
        ({"least": 2, "whole": True}, "a whole number of at least 2"),
        ({"least": 2, "most": 3, "whole": True}, "a whole number in [2, 3]"),
    ],
)
def test_the_bounds_are_said_in_words(bounds, words):
    for value in (NAN, "many", None, float("inf")):
        with pytest.raises(ValueError, match="this must be") as raised:
            check("this", value, **bounds)
        assert str(raised.value) == f"this must be {words}, not {value!r}"
    for value in (2.5, np.float32(2.5), jnp.array(2.5)):
        if not bounds.get("whole"):
            check("this", value, **bounds)
