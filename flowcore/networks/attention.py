"""Attention: `(query, key, value) -> mixed`, for one example; all four are (tokens, heads, features).

    mixed_i = sum_j softmax_j(query_i . key_j / sqrt(features)) value_j

The same function three times, because no one of them is best everywhere. Methods with a derivative of the map in their
equality push a tangent forward through the network (`flowcore.calculus`) and then differentiate that backward; the
attention that ships with accelerators can only go backward.

    plain      all scores at once: memory tokens^2, any derivative
    chunked    the scores of a few queries at a time, and again on the way back: memory linear in tokens, any derivative
    fused      the accelerator's own: linear memory and fastest, backward only

Networks attend automatically: plain for few tokens, chunked for many, and one in bfloat16, while it is trained (`fit`),
fused if the objective lets it. `select_attention` says which suits an objective, and why; `use_attention` puts one into
a model.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Rows = Float[Array, "tokens heads features"]
Queries = Float[Array, "queries heads features"]  # some of the rows, or all

CHUNK = 128  # queries at a time
MANY = 1024  # tokens above which memory is worth a third to two thirds more time (`ci/replicate bench attention`)


def plain(query: Queries, key: Rows, value: Rows) -> Queries:
    """Every score at once: a matrix (tokens, tokens) for each head."""
    affinity = jnp.einsum("ihd,jhd->hij", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("hij,jhd->ihd", jax.nn.softmax(affinity), value)


def chunked(query: Rows, key: Rows, value: Rows, chunk: int = CHUNK) -> Rows:
    """`plain` for `chunk` queries at a time, whose scores are forgotten and made anew on the way back.

    A query sees all its keys at once, so that its softmax is whole and needs no running maximum; the scores that exist
    at a time are (heads, chunk, tokens). A JVP carries value and tangent through the same pass over the chunks.
    Reference: Rabe & Staats 2021, "Self-attention Does Not Need O(n^2) Memory", section 3, without the split of keys.
    """

    @jax.checkpoint
    def mixed(query):
        return plain(query[None], key, value)[0]

    return jax.lax.map(mixed, query, batch_size=chunk)


def fused(query: Rows, key: Rows, value: Rows) -> Rows:
    """cuDNN's attention, on an NVIDIA GPU and of operands in bfloat16 only, to which they are rounded. It refuses
    forward mode.

    Reference: Dao et al. 2022, "FlashAttention".
    """
    operands = (x.astype(jnp.bfloat16) for x in (query, key, value))
    return jax.nn.dot_product_attention(*operands, implementation="cudnn").astype(value.dtype)


def for_any_derivative(tokens: int) -> Callable:
    """The attention of which any derivative can be taken, by the number of tokens."""
    return chunked if tokens > MANY else plain


def automatic(query: Rows, key: Rows, value: Rows) -> Rows:
    """Whichever of the two suits this many tokens."""
    return for_any_derivative(len(query))(query, key, value)


def automatic_bfloat16(query: Rows, key: Rows, value: Rows) -> Rows:
    """The same, of a network in bfloat16: where fused attention will do, it may round."""
    return automatic(query, key, value)


automatic_bfloat16.in_float32 = lambda: automatic  # how `flowcore.maps.in_float32` asks for the exact twin
AUTOMATIC = automatic, automatic_bfloat16


def use_attention(model, attend: Callable):
    """The model with `attend` wherever it attends automatically; an attention that was chosen stays."""
    return jax.tree.map(lambda leaf: attend if any(leaf is way for way in AUTOMATIC) else leaf, model)


def uses_attention(model, *ways: Callable) -> bool:
    """Whether it does so anywhere."""
    return any(leaf is way for leaf in jax.tree.leaves(model) for way in ways)


class ObjectiveWithAttention(eqx.Module):
    """An objective under which the model and its target attend so, where they do it automatically."""

    objective: Callable
    attend: Callable

    def __call__(self, model, x0, *, target, **given):
        return self.objective(use_attention(model, self.attend), x0, target=use_attention(target, self.attend), **given)


def with_selected_attention(objective: Callable, model, x0, *, teacher=None, **known) -> Callable:
    """The objective with the attention that `select_attention` finds for it, and prints why; itself if nothing attends
    automatically.

    The model that it trains goes on attending automatically: any derivative may be asked of that.
    """
    if not uses_attention(model, *AUTOMATIC):
        return objective
    attend, why = select_attention(objective, model, x0, teacher=teacher, **known)
    print(why, flush=True)
    return ObjectiveWithAttention(objective, attend)


def select_attention(objective: Callable, model, x0, *, teacher=None, **known) -> tuple[Callable, str]:
    """(attend, why) for training `model` with `objective` on batches like `x0`; `why` is one line to print.

    Asked of JAX, not of a list of methods: the gradient of the objective is traced and lowered with `fused` in the
    model, nothing is compiled or run, and what refuses is quoted. The rest is the number of tokens. Only the shapes of
    what is given matter, so it may be asked while a program is traced.
    """
    tokens = []

    def counted(query, key, value):
        tokens.append(len(query))
        return plain(query, key, value)

    # what is wrong anyway is raised here
    jax.eval_shape(*gradient_of(ObjectiveWithAttention(objective, counted), model, x0, teacher, known))
    if not tokens:
        return plain, "plain attention: this model has none to choose"
    if uses_attention(model, automatic):
        refused = "it rounds to bfloat16, and this network is in float32"
    else:
        refused = refusal(*gradient_of(ObjectiveWithAttention(objective, fused), model, x0, teacher, known))
    if refused is None:
        return fused, f"fused attention for {max(tokens)} tokens: the objective takes no JVP"
    attend = for_any_derivative(max(tokens))
    return attend, f"{attend.__name__} attention for {max(tokens)} tokens; fused refuses: {refused}"


def gradient_of(objective: Callable, model, x0, teacher, known: dict) -> tuple:
    """(function, arrays): the gradient of the objective in the model, of arrays alone, which are but shapes."""
    given = eqx.filter_eval_shape(lambda: (objective, model, x0, teacher, known, jax.random.key(0)))
    arrays, static = eqx.partition(given, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def gradient(arrays):
        objective, model, x0, teacher, known, key = eqx.combine(arrays, static)
        arguments = {"target": model, "teacher": teacher, "progress": 0.5, "key": key, **known}
        return eqx.filter(eqx.filter_grad(lambda model: objective(model, x0, **arguments)[0])(model), eqx.is_array)

    return gradient, arrays


def refusal(gradient: Callable, arrays) -> str | None:
    """What JAX says against compiling the gradient, or None."""
    try:
        jax.jit(gradient).lower(arrays)
    except (TypeError, NotImplementedError, RuntimeError, ValueError) as error:  # JAX has no type for a refusal
        return str(error).strip().splitlines()[0]
    return None
