"""Settings of a run as text: what decides it beside its state, so that a checkpoint can tell another run from its own.

`describe(value)` maps every part of a value to what it is, e.g.

    {"terms.0.equality": "mean_flow 5d41402abc4b", "terms.0.share": "0.75", ...}

An optimiser is nothing but closures, and so are laws of the times: a function is described by its name, its code, its
defaults and what it closes over, part by part. So a rate is found where it lives, and a difference can be named. What a
function reads from its module is not seen, nor what an object keeps that is neither a dataclass nor callable.
"""

import dataclasses
import functools
import hashlib
import itertools
import types
from typing import Any

import jax
import numpy as np

FEW = 4  # numbers of an array that are written out; of more there is a hash
SHOWN = 3  # differences that a message names


def describe(value: Any) -> dict[str, str]:
    """What a value is, part by part: the same text in every process of the same code."""
    return dict(described(value, "", ()))


def differences(there: dict[str, str], here: dict[str, str]) -> str:
    """The first parts that are not the same in both, in words; "" if all are."""
    other = [name for name in dict.fromkeys([*here, *there]) if there.get(name) != here.get(name)]
    words = [
        f"{shortened(name)} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here" for name in other
    ]
    more = [f"{len(words) - SHOWN} more"] if len(words) > SHOWN else []
    return "; ".join(words[:SHOWN] + more)


def shortened(name: str) -> str:
    """The path of a part with its middle left out."""
    first, *middle = name.split(".")
    return f"{first}...{'.'.join(middle[-2:])}" if len(middle) > 3 else name


def described(value, path: str, above: tuple[int, ...]):
    """(path, text) of the value, or of all its parts; `above` are those that it is a part of."""
    if id(value) in above:  # a function that closes over itself
        yield path, "itself"
        return
    text, parts = whole_and_parts(value)
    if text:
        yield path, text
    for name, part in parts:
        yield from described(part, f"{path}.{name}" if path else str(name), (*above, id(value)))


def whole_and_parts(value) -> tuple[str, Any]:
    """What is said of the value itself, and its parts by name."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return array_text(value), ()
    if isinstance(value, type):
        return value.__qualname__, ()
    if isinstance(value, dict):
        return "" if value else "{}", value.items()
    if hasattr(value, "_fields"):  # a named tuple
        return type(value).__name__, zip(value._fields, value, strict=True)
    if isinstance(value, tuple | list):
        return "" if value else "()", enumerate(value)
    if isinstance(value, types.FunctionType):
        return f"{value.__qualname__} {code_hash(value.__code__, value.__doc__)}", function_parts(value)
    if isinstance(value, types.MethodType):
        return f"method {value.__name__}", [("of", value.__self__), ("function", value.__func__)]
    if isinstance(value, functools.partial):
        return "partial", [("function", value.func), *enumerate(value.args), *value.keywords.items()]
    if dataclasses.is_dataclass(value):  # every `eqx.Module` is one
        return type(value).__qualname__, [(each.name, getattr(value, each.name)) for each in dataclasses.fields(value)]
    if hasattr(value, "__wrapped__"):  # jitted, or with a derivative of its own
        return type(value).__qualname__, [("function", value.__wrapped__)]
    if isinstance(value, float) and value.is_integer():  # optax turns its schedules' steps into 6.0 when first asked
        return repr(int(value)), ()
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.dtype):
        return repr(value), ()
    attributes = getattr(value, "__dict__", {}) if callable(value) else {}
    return f"{type(value).__qualname__} {getattr(value, '__qualname__', '')}".rstrip(), attributes.items()


def function_parts(function: types.FunctionType):
    """What a function closes over, and its defaults, by name."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closed = [(name, cell.cell_contents) for name, cell in cells if not is_empty(cell)]
    return itertools.chain(closed, enumerate(function.__defaults__ or ()), (function.__kwdefaults__ or {}).items())


def is_empty(cell) -> bool:
    try:
        return cell.cell_contents is cell  # never: it is only looked at
    except ValueError:
        return True


def code_hash(code: types.CodeType, documentation: str | None) -> str:
    """Of what the code does: not of where it stands, nor of its documentation."""
    content = hashlib.sha256(code.co_code + repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            content.update(code_hash(constant, None).encode())
        elif constant != documentation:
            content.update(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode())
    return content.hexdigest()[:12]


def array_text(x) -> str:
    """E.g. "float32[2] 0.5 1.0"; of more numbers their checksum; of an array that is elsewhere too only its shape."""
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    kind = f"{x.dtype}{list(x.shape)}"
    if isinstance(x, jax.Array) and not is_here(x):
        return kind
    numbers = np.asarray(x)
    content = " ".join(map(str, numbers.ravel().tolist())) if numbers.size <= FEW else array_hash(numbers)
    return f"{kind} {content}"


def is_here(x: jax.Array) -> bool:
    """Whether this process has all of the array."""
    return x.is_fully_addressable or x.is_fully_replicated


def array_hash(x: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()[:16]
