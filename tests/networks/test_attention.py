import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import gradient, leaves, lenient, lively, same

from flowcore import (
    METHODS,
    NETWORKS,
    AverageVelocityMap,
    DiT,
    GaussianMap,
    Objective,
    ResidualMLP,
    WithAuxiliary,
    attention,
    methods,
    objective,
    training,
)
from flowcore.calculus import d_ds, stop_gradients
from flowcore.data import SampledSource
from flowcore.maps import in_float32
from flowcore.networks.attention import automatic, automatic_bfloat16, chunked, plain, select_attention, use_attention

CHUNK = 4
TOKENS = [4, 8, 13, 3]  # one chunk, two, three and a rest, a rest alone


def rows(tokens, key=0):
    """(query, key, value), three of them different."""
    return tuple(jax.random.normal(jax.random.key(key), (3, tokens, 2, 5)))


def in_chunks(query, key, value):
    return chunked(query, key, value, chunk=CHUNK)


def near(left, right):
    return all(jnp.max(jnp.abs(a - b)) < 1e-12 for a, b in zip(leaves(left), leaves(right), strict=True))


def value(attend, inputs, tangents):
    return attend(*inputs)


def pushed(attend, inputs, tangents):
    return jax.jvp(attend, inputs, tangents)


def pulled(attend, inputs, tangents):
    return jax.grad(lambda inputs: jnp.sum(jnp.cos(attend(*inputs))))(inputs)


def pulled_through_a_tangent(attend, inputs, tangents):
    """What a Lagrangian loss asks for: the gradient of a loss of value and tangent."""

    def loss(inputs):
        value, tangent = jax.jvp(attend, inputs, tangents)
        return jnp.sum(jnp.cos(value - tangent))

    return jax.grad(loss)(inputs)


ASKED = [value, pushed, pulled, pulled_through_a_tangent]
asked = pytest.mark.parametrize("ask", ASKED, ids=lambda ask: ask.__name__)


@asked
@pytest.mark.parametrize("tokens", TOKENS)
def test_chunks_are_the_plain_path(ask, tokens):
    inputs, tangents = rows(tokens), rows(tokens, key=1)
    assert near(ask(in_chunks, inputs, tangents), ask(plain, inputs, tangents))


@asked
def test_chunks_are_the_plain_path_under_vmap(ask):
    inputs, tangents = (tuple(jnp.stack([leaf, 2 * leaf]) for leaf in rows(13, key)) for key in (0, 1))
    batched = [
        jax.vmap(lambda i, t, attend=attend: ask(attend, i, t))(inputs, tangents) for attend in (in_chunks, plain)
    ]
    assert near(*batched)


def test_plain_is_the_softmax_of_the_scores():
    query, key, value = rows(3)
    scores = jnp.array([[query[1, 0] @ key[j, 0] / 5**0.5 for j in range(3)]])
    assert near(plain(query, key, value)[1, 0], (jnp.exp(scores) / jnp.sum(jnp.exp(scores)) @ value[:, 0])[0])


def temporaries(ask, attend, tokens) -> int:
    """Bytes that the compiled program needs beside its arguments and results."""
    inputs, tangents = rows(tokens), rows(tokens, key=1)
    compiled = jax.jit(lambda inputs, tangents: ask(attend, inputs, tangents)).lower(inputs, tangents).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("ask", ASKED[1:], ids=lambda ask: ask.__name__)
def test_twice_the_tokens_take_twice_the_memory_in_chunks_and_four_times_plainly(ask):
    grown = {attend: temporaries(ask, attend, 512) / temporaries(ask, attend, 256) for attend in (in_chunks, plain)}
    assert grown[in_chunks] < 2.3
    assert grown[plain] > 3.3


# --- the choice -----------------------------------------------------------------------------------------------------


@jax.custom_vjp
def backward_only(query, key, value):
    """What an accelerator's attention is to JAX: it has a rule for the way back, and none forward."""
    return plain(query, key, value)


backward_only.defvjp(lambda *rows: (plain(*rows), rows), lambda rows, pulled: jax.vjp(plain, *rows)[1](pulled))

IMAGES = jnp.zeros((4, 4, 4, 1))
WIDE = AverageVelocityMap(DiT((4, 4, 1), 2, 8, 1, 2, key=jax.random.key(0)))
MODEL = use_attention(WIDE, automatic_bfloat16)  # as of a network in bfloat16, but with the tests' precision
TEACHER = GaussianMap(jnp.zeros((4, 4, 1)), 0.5)
FLOW_MATCHING = Objective(methods.flow_matching_terms())
# those whose derivative is a difference of two values, or that have none
WITHOUT_A_JVP = {"PID", "CT", "CD", "CTM", "SoFlow", "Shortcut", "SplitMeanFlow", "PSD", "PFMM"}


def test_on_a_processor_the_library_says_itself_why_fused_is_not_chosen():
    attend, why = select_attention(FLOW_MATCHING, MODEL, IMAGES)
    assert attend is plain
    assert why == "plain attention for 4 tokens; fused refuses: cuDNN is not detected."


def test_where_fused_runs_it_is_chosen_unless_a_jvp_is_taken(monkeypatch):
    monkeypatch.setattr(attention, "fused", backward_only)
    assert select_attention(FLOW_MATCHING, MODEL, IMAGES)[0] is backward_only
    attend, why = select_attention(objective(methods.method("MF")), MODEL, IMAGES)
    assert attend is plain
    assert "fused refuses: can't apply forward-mode" in why


def test_a_derivative_of_a_frozen_copy_is_noticed(monkeypatch):
    """JAX traces it without a word and refuses to lower it."""
    monkeypatch.setattr(attention, "fused", backward_only)

    def one_example(model, x0, *, target, **given):
        _, slope = d_ds(stop_gradients(model).average_velocity)(x0[0], 0.9, 0.2)
        return jnp.sum(model.average_velocity(x0[0], 0.9, 0.2) * slope), {}

    assert select_attention(one_example, MODEL, IMAGES)[0] is plain


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_every_method_says_whether_it_takes_a_jvp(row, monkeypatch):
    monkeypatch.setattr(attention, "fused", backward_only)
    model = WithAuxiliary(MODEL, MODEL) if row.name == "FreeFlow" else MODEL
    attend, _ = select_attention(objective(row), model, IMAGES, teacher=TEACHER)
    assert (attend is backward_only) == (row.name in WITHOUT_A_JVP)


def test_what_is_wrong_with_the_training_itself_is_raised():
    with pytest.raises(ValueError, match="pass teacher="):
        select_attention(objective(methods.method("LMD")), MODEL, IMAGES)


def test_a_network_in_float32_is_not_rounded(monkeypatch):
    monkeypatch.setattr(attention, "fused", backward_only)
    attend, why = select_attention(FLOW_MATCHING, WIDE, IMAGES)
    assert attend is plain
    assert why.endswith("fused refuses: it rounds to bfloat16, and this network is in float32")


def test_the_named_networks_say_whether_they_may_be_rounded():
    for name, way in {"dit": automatic, "dit_bfloat16": automatic_bfloat16}.items():
        net = NETWORKS[name]((4, 4, 1), 8, 1, key=jax.random.key(0))
        assert net.blocks[0].attention.attend is way
        assert in_float32(net).blocks[0].attention.attend is automatic


def test_many_tokens_are_chunked(monkeypatch):
    monkeypatch.setattr(attention, "MANY", 3)
    attend, why = select_attention(FLOW_MATCHING, MODEL, IMAGES)
    assert attend is chunked
    assert why.startswith("chunked attention for 4 tokens")


def test_a_model_without_attention_has_no_choice():
    mlp = AverageVelocityMap(ResidualMLP(2, 8, 1, key=jax.random.key(0)))
    assert (
        select_attention(FLOW_MATCHING, mlp, jnp.zeros((4, 2)))[1] == "plain attention: this model has none to choose"
    )


def test_a_model_attends_as_it_is_told_and_shows_it():
    model = use_attention(MODEL, chunked)
    assert [block.attention.attend for block in model.net.blocks] == [chunked]
    assert "chunked" in repr(model) and "automatic_bfloat16" in repr(MODEL)
    assert use_attention(model, plain).net.blocks[0].attention.attend is chunked


@jax.custom_vjp
def marked(query, key, value):
    """`backward_only` that gives itself away: it returns the double."""
    return 2 * plain(query, key, value)


marked.defvjp(lambda *rows: (marked(*rows), rows), lambda rows, pulled: jax.vjp(plain, *rows)[1](2 * pulled))
LIVELY = lively(MODEL)  # untrained, a DiT does not listen to its attention
MEAN_FLOW = objective(methods.method("MF"))


def trained(loss, model):
    """The models of two seeds after two steps, in a program of their own: what is said, is said while it is made."""
    optimiser = lenient(training.adam(1e-2, 2))
    state = eqx.filter_vmap(lambda key: training.begin(model, optimiser, key=key))(jax.random.split(jax.random.key(1)))
    source = SampledSource(lambda key: jax.random.normal(key, IMAGES.shape[1:]), 4)
    ((state, _),) = training.fit(state, lambda *given, **told: loss(*given, **told), source, optimiser, steps=2)
    return state.model


def test_training_fuses_where_no_jvp_is_taken(monkeypatch, capsys):
    monkeypatch.setattr(attention, "fused", marked)
    model = trained(FLOW_MATCHING, LIVELY)
    assert capsys.readouterr().out == "fused attention for 4 tokens: the objective takes no JVP\n"
    assert model.net.blocks[0].attention.attend is automatic_bfloat16  # of what is trained, any derivative may be asked
    assert same(model, trained(FLOW_MATCHING, use_attention(LIVELY, marked)))
    assert not same(model, trained(FLOW_MATCHING, use_attention(LIVELY, plain)))


def test_training_says_why_it_does_not_fuse(monkeypatch, capsys):
    monkeypatch.setattr(attention, "fused", marked)
    model = trained(MEAN_FLOW, LIVELY)
    assert "plain attention for 4 tokens; fused refuses: can't apply forward-mode" in capsys.readouterr().out
    assert same(model, trained(MEAN_FLOW, use_attention(LIVELY, plain)))


def test_training_leaves_an_attention_that_was_chosen_and_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(attention, "fused", marked)
    trained(FLOW_MATCHING, use_attention(LIVELY, plain))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("many", "attend"), [(13, "plain"), (12, "chunked")])
def test_outside_training_the_number_of_tokens_decides(many, attend, monkeypatch):
    monkeypatch.setattr(attention, "MANY", many)
    monkeypatch.setattr(attention, attend, lambda query, key, value: jnp.zeros_like(query))
    assert not automatic(*rows(13)).any()


def test_a_model_in_chunks_is_the_same_model():
    """Value and gradient of MeanFlow, through a DiT of 4 tokens in chunks of 4."""
    loss, model = objective(methods.method("MF")), lively(MODEL)
    x0 = jax.random.normal(jax.random.key(3), IMAGES.shape)

    def total(model):
        return loss(model, x0, target=MODEL, key=jax.random.key(4))[0]

    assert near(gradient(total, model), gradient(total, use_attention(model, in_chunks)))
