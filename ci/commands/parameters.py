"""The parameters of a notebook: their defaults, the ranges that they state, and values given in their place.

One cell, tagged `parameters`, has a line for each: annotated, literal, commented. The comment may state a range,

    steps: int = 4000  # training steps of the main run, at least 1; up to 100 is a trial
    rate: float = 2e-3  # peak rate of Adam, > 0
    diagonal: float = 0.5  # share of the rows, in [0, 1], where source and target are one
    network: str = "mlp"  # backbone: one of mlp, dit, unet; the last two for images

namely one of

    >= N    > N    <= N    < N    at least N    above N    at most N    below N
    in [A, B]    in (A, B]    in [A, B)    in (A, B)    one of WORD, WORD, ...

which begins the comment or follows a comma, a semicolon or a colon, and ends with the comment, at a semicolon or, but
for the words, at a comma. A single word has no dot: `one of flowcore.NETWORKS` states no range. A round bracket
excludes its end. Of a tuple the range is that of each entry. Two ranges are refused, and so is a sign that compares
with a number elsewhere in the comment, so that no range is overlooked.

Without a word of it: a float is finite, an integer fits 32 bits, and a seed is in [0, 2147483648).
"""

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from commands import notebooks
from commands.errors import BadInput, first_line
from flowcore import record

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
CLAUSE = r"(?:^|[,;:]) *(?:{}) *(?=[{}]|$)"
SIGNS = {"at least": ">=", "above": ">", "at most": "<=", "below": "<"}
RELATION = rf"(?P<relation>>=|<=|>|<|{'|'.join(SIGNS)})"
BOUND = re.compile(CLAUSE.format(rf"{RELATION} *(?P<bound>{NUMBER})", ",;"))
ENDS = rf"in (?P<left>[\[(]) *(?P<low>{NUMBER}), *(?P<high>{NUMBER}) *(?P<right>[\])])"
INTERVAL = re.compile(CLAUSE.format(ENDS, ",;"))
CHOICES = re.compile(CLAUSE.format(r"one of (?P<words>\w[\w.+-]*(?:, *\w[\w.+-]*)+|\w[\w+-]*)", ";"))
COMPARISON = re.compile(rf"(?:>=|<=|>|<) *{NUMBER}|\bin [\[(] *{NUMBER}")
END = 2**31  # of what 32 bits hold


@dataclass(frozen=True)
class Parameter:
    """A line of the cell: its default and its comment."""

    default: object
    comment: str = ""


def of_notebook(path: Path) -> dict[str, Parameter]:
    """The parameters by name. Raises BadInput for a cell that does not state them, or whose defaults break a range."""
    cells = [cell for cell in notebooks.code_cells(notebooks.read(path)) if notebooks.tagged(cell, "parameters")]
    if len(cells) != 1:
        raise BadInput(f"{path}: needs one cell tagged parameters, has {len(cells)}")
    try:
        found = stated(cells[0]["source"])
    except (SyntaxError, ValueError, AttributeError, tokenize.TokenError) as error:
        reason = first_line(str(error))
        raise BadInput(f"{path}: the cell tagged parameters may only assign literals: {reason}") from None
    for name, parameter in found.items():
        try:
            refuse_out_of_range(name, parameter.default, parameter.comment)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
    return found


def stated(source: str) -> dict[str, Parameter]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    lines = [line for line in ast.parse(source).body if isinstance(line, ast.AnnAssign)]
    return {
        line.target.id: Parameter(ast.literal_eval(line.value), comments.get(line.end_lineno, "")) for line in lines
    }


def defaults(path: Path) -> dict[str, object]:
    return {name: parameter.default for name, parameter in of_notebook(path).items()}


def refuse_out_of_range(name: str, value: object, comment: str = "") -> None:
    """Raises BadInput, naming parameter, range and value, when the value breaks a range: that of the comment, or one
    that needs no word. The module's docstring has the grammar."""
    if isinstance(value, tuple | list):
        for entry in value:
            refuse_out_of_range(name, entry, comment)
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"parameter {name} must be finite, not {value}")
    if (name == "seed" or name.endswith("_seed")) and number and not 0 <= value < END:
        raise BadInput(f"parameter {name} must be in [0, {END}), not {shown(value)}")
    if isinstance(value, int) and number and not -END <= value < END:
        raise BadInput(f"parameter {name} must fit 32 bits: in [{-END}, {END}), not {shown(value)}")
    bounds, intervals, choices = (list(clause.finditer(comment)) for clause in (BOUND, INTERVAL, CHOICES))
    stated = [*bounds, *intervals, *choices]
    signs = [clause for clause in stated if COMPARISON.search(clause[0])]
    compared = COMPARISON.findall(comment)
    if len(stated) > 1 or len(compared) != len(signs):
        odd = ", ".join(compared or [clause[0].lstrip(",;: ") for clause in stated])
        raise BadInput(f"the comment of parameter {name} states a range that cannot be read: {odd}")
    if not stated:
        return
    if bounds:
        relation = SIGNS.get(bounds[0]["relation"], bounds[0]["relation"])
        wanted, fits = f"{relation} {bounds[0]['bound']}", number and compares(value, relation, bounds[0]["bound"])
    elif intervals:
        left, low, high, right = intervals[0].groups()
        above = number and compares(value, ">=" if left == "[" else ">", low)
        wanted, fits = f"in {left}{low}, {high}{right}", above and compares(value, "<=" if right == "]" else "<", high)
    else:
        words = choices[0]["words"].replace(" ", "").split(",")
        wanted, fits = f"one of {', '.join(words)}", str(value) in words
    if not fits:
        raise BadInput(f"parameter {name} must be {wanted}, not {shown(value)}")


def compares(value: float, relation: str, bound: str) -> bool:
    limit = float(bound)
    return {">=": value >= limit, ">": value > limit, "<=": value <= limit, "<": value < limit}[relation]


def shown(value: object) -> str:
    """A value in a message: a long one is cut."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a number of {value.bit_length()} bits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def typed(name: str, value: object, given: Mapping[str, object]) -> object:
    """`value` for parameter `name`, as its default's type. Raises BadInput for an unknown name or another type."""
    if name not in given:
        raise BadInput(f"no parameter {name!r}; there are: {', '.join(given)}")
    return as_type_of(given[name], value, name, given[name])


def as_type_of(like: object, value: object, name: str, default: object) -> object:
    kind = type(like)
    if kind is float and type(value) is int and abs(value) < 2**1000:
        return float(value)
    if kind is not type(None) and type(value) is not (list if kind is tuple else kind):
        raise BadInput(f"parameter {name} is {type(default).__name__} (default {default!r}), not {shown(value)}")
    if kind in (tuple, list) and len({type(entry) for entry in like}) == 1:
        return [as_type_of(like[0], entry, name, default) for entry in value]
    return value


def parse(name: str, text: str, given: Mapping[str, object]) -> object:
    """The value of `-p name text`: itself for a str, else JSON (1e-3 is no number in YAML), else YAML."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"parameter {name} must be UTF-8, not {text!a}") from None
    if isinstance(given.get(name), str):
        return text
    return typed(name, literal(text), given)


def literal(text: str) -> object:
    """What the text says in JSON, else in YAML, else the text."""
    try:
        return json.loads(text)
    except RecursionError:
        return text
    except ValueError:
        import yaml

        try:
            return yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            return text


def assigned(assignments: list[list[str]], known: Mapping[str, Parameter]) -> dict[str, object]:
    """The values of `-p NAME VALUE` by name, of their types and in their ranges."""
    given = {name: parameter.default for name, parameter in known.items()}
    values = {name: parse(name, text, given) for name, text in assignments}
    for name, value in values.items():
        refuse_out_of_range(name, value, known[name].comment)
    return values


def of_preset(path: Path, preset: str, known: Mapping[str, Parameter]) -> dict[str, object]:
    """The parameters of a preset in the record at `path`. Raises BadInput for an unknown preset, RecordError for names
    that the notebook does not have and for values that it refuses."""
    presets = record.read(path)["presets"]
    if preset not in presets:
        raise BadInput(f"no preset {preset!r} in {path.name}; there are: {', '.join(presets)}")
    given = {name: parameter.default for name, parameter in known.items()}
    try:
        values = {name: typed(name, value, given) for name, value in presets[preset]["parameters"].items()}
        for name, value in values.items():
            refuse_out_of_range(name, value, known[name].comment)
    except BadInput as error:
        raise record.RecordError(f"{path}: presets.{preset}.parameters: {error}") from None
    return values
