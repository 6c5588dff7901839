"""Values on the command line and in the cell of parameters: refused before a kernel starts."""

import tokenize

import pytest
from table import Row, judge, table
from trees import PARAMETERS, put

from commands import parameters
from commands.errors import BadInput
from flowcore import record

SHAPED = """\
source: str = "mixture"  # the task: one of mixture, digits; the first has an exact map
steps: int = 10  # training steps, >= 1
batch: int = 4  # examples per step, >= 1
rate: float = 0.5  # peak rate of Adam, > 0
width: int = 8  # units of each layer, >= 1
depth: int = 2  # residual blocks, >= 0
network: str = "mlp"  # the backbone, one of mlp, dit, unet
diagonal: float = 0.5  # share of the rows, in [0, 1]
decay: float = 0.9  # of the average, in [0, 1); 0 for the live model
shares: tuple = (0.0, 0.5)  # other shares, in [0, 1]
note: str = "a"  # any word
free: float = 1.0  # any number
flag: bool = True  # or not
seed: int = 0  # of all draws
weak_seed: int = 0  # of the weak teacher"""


def given(title, name, value, *names, code=2):
    return Row(title, ["run", "shaped", "-p", name, value], code, [name, *names])


def spoil(source, *names, title, verb="run"):
    return Row(title, [verb, "shaped"], 2, ["shaped.ipynb", *names], lambda root, _: shape(root, source))


def shape(root, source=SHAPED):
    put(root, "shaped", parameters=source)
    path = root / "replications" / "shaped.json"
    try:
        values = {name: each.default for name, each in parameters.stated(source).items() if name != "seed"}
    except (SyntaxError, ValueError, AttributeError, tokenize.TokenError):
        values = {}
    record.write(path, {"title": "T", "url": "U", "presets": {"mixture": {"parameters": values}}})
    return root


ROWS = [
    given("no steps", "steps", "0", "must be >= 1, not 0"),
    given("negative steps", "steps", "-1", "must be >= 1, not -1"),
    given("half a step", "steps", "2.5", "is int (default 10), not 2.5"),
    given("steps as a word", "steps", "many", "is int", "'many'"),
    given("steps as a truth", "steps", "true", "is int", "True"),
    given("steps as an unquoted nan", "steps", "nan", "is int"),
    given("steps beyond 32 bits", "steps", "4294967296", "32 bits", "4294967296"),
    given("steps of five thousand digits", "steps", "9" * 5000, "steps is int"),
    given("no steps at all", "steps", "null", "is int", "None"),
    given("a batch of none", "batch", "0", ">= 1", "not 0"),
    given("a width of none", "width", "0", ">= 1", "not 0"),
    given("a negative width", "width", "-4", ">= 1", "not -4"),
    given("a negative depth", "depth", "-1", ">= 0", "not -1"),
    given("a rate of nothing", "rate", "0", "must be > 0, not 0.0"),
    given("a negative rate", "rate", "-1", "must be > 0, not -1.0"),
    given("a rate that is no number", "rate", "NaN", "must be finite, not nan"),
    given("an infinite rate", "rate", "Infinity", "must be finite, not inf"),
    given("a rate too large for a float", "rate", "1e999", "must be finite, not inf"),
    given("YAML's nan", "rate", ".nan", "must be finite, not nan"),
    given("nan where no range is stated", "free", "NaN", "must be finite"),
    given("an integer too large for a float", "free", "9" * 400, "is float"),
    given("an open list", "rate", "[1", "is float", "[1"),
    given("a list nested without end", "rate", "[" * 100_000, "is float"),
    given("a date", "rate", "2026-13-45", "is float", "2026-13-45"),
    given("a share above one", "diagonal", "2.0", "in [0, 1]", "not 2.0"),
    given("a share below zero", "diagonal", "-0.1", "in [0, 1]", "not -0.1"),
    given("the excluded end", "decay", "1", "in [0, 1)", "not 1.0"),
    given("an entry out of its range", "shares", "[0.5, 1.5]", "in [0, 1]", "not 1.5"),
    given("an entry that is no number", "shares", "[0.5, NaN]", "finite"),
    given("an entry of another type", "shares", '[0.5, "a"]', "'a'"),
    given("a number for a tuple", "shares", "0.5", "is tuple"),
    given("a number for a truth", "flag", "1", "is bool"),
    given("no such network", "network", "nope", "one of mlp, dit, unet, not 'nope'"),
    given("no such source", "source", "nope", "one of mixture, digits, not 'nope'"),
    given("an empty source", "source", "", "one of mixture, digits, not ''"),
    given("a word that is not UTF-8", "note", "\udcff", "UTF-8"),
    given("a negative seed", "seed", "-1", "[0, 2147483648)", "not -1"),
    given("a seed one too large", "seed", "2147483648", "[0, 2147483648)", "not 2147483648"),
    given("a huge seed", "seed", "99999999999999999999999", "[0, 2147483648)"),
    given("another seed, too large", "weak_seed", "2147483648", "[0, 2147483648)"),
    given("no such parameter", "stps", "3", "there are: source, steps"),
    Row("a name without a value", ["run", "shaped", "-p", "steps"], 2, ["-p", "2 arguments"]),
    Row("one bad value of two", ["run", "shaped", "-p", "steps", "1", "-p", "width", "0"], 2, ["width", ">= 1"]),
    Row("a bad value for all", ["run", "all", "-p", "steps", "0"], 2, ["steps", ">= 1"]),
    spoil("steps: int = 0  # >= 1\nseed: int = 0  # s", "steps must be >= 1", title="a default out of its range"),
    spoil("steps: int = 1  # >= 1, <= 5\nseed: int = 0  # s", "cannot be read", title="two ranges"),
    spoil(
        "steps: int = 1  # when s > 0 it trains\nseed: int = 0  # s",
        "cannot be read: > 0",
        title="a comparison in passing",
    ),
    spoil("steps: int = 1  # in [1 to 5]\nseed: int = 0  # s", "cannot be read: in [1", title="a range in other words"),
    spoil("steps: int = 2 * 5  # s\nseed: int = 0  # s", "may only assign literals", title="a computed default"),
    spoil("steps: int = (  # s", "may only assign literals", title="a cell that does not parse"),
    spoil("a.b: int = 1  # s", "may only assign literals", title="an attribute for a parameter"),
    spoil("steps: int = 0  # >= 1\nseed: int = 0  # s", "steps", title="such a notebook refreshed", verb="refresh"),
    spoil("steps: int = 0  # >= 1\nseed: int = 0  # s", "steps", title="such a notebook recorded", verb="record"),
]


@table(ROWS)
def test_a_bad_value_is_refused_at_once(row, tree, monkeypatch, capsys):
    judge(row, shape(tree), monkeypatch, capsys)


@pytest.mark.parametrize(
    ("comment", "good", "bad"),
    [
        (">= 1", [1, 2, 1.0], [0, 0.999, "1", None, True]),
        ("training steps, >= 1; more is better", [1], [0]),
        ("peak rate, > 0", [1e-9], [0, -1]),
        ("at most: <= -1.5e1", [-15, -16.0], [-14]),
        ("size; < 3", [2], [3]),
        ("share, in [0, 1]", [0, 0.5, 1, (0, 1), []], [-0.1, 1.1, (0.5, 2)]),
        ("in (0, 1)", [0.5], [0, 1]),
        ("in (0, 1]", [1], [0]),
        ("in [-1, .5)", [-1], [0.5]),
        ("steps, at least 1; up to 100 is a trial", [1], [0]),
        ("above 0", [0.1], [0]),
        ("at most 3", [3], [4]),
        ("below 3", [2], [3]),
        ("share of the rows, in [0, 1], where both are one", [0.5], [2]),
        ("rows, >= 2, of the batch", [2], [1]),
        ("alpha at the end; above 1 - smallest it is 1", [7], []),
        ("one of a, b-c, d_1", ["a", "b-c", "d_1"], ["b", "", "A", 1]),
        ("one of 1, 2, 4; powers", [1, 4], [3]),
        ("one of mlp", ["mlp"], ["dit", "", 1]),
        ("the backbone: one of mlp; more on images", ["mlp"], ["mlp; more", "more"]),
        ("one of flowcore.NETWORKS; on images also more", ["anything"], []),
        ("one of the few, and any", ["anything"], []),
        ("from 0 to 1 in all, see section 3", [7], []),
        ("", [7, -7.5, "x", None], []),
    ],
)
def test_a_comment_states_a_range(comment, good, bad):
    for value in good:
        parameters.refuse_out_of_range("p", value, comment)
    for value in bad:
        with pytest.raises(BadInput, match="^parameter p must be "):
            parameters.refuse_out_of_range("p", value, comment)


def test_the_template_states_its_ranges(request):
    root = request.config.rootpath
    known = parameters.of_notebook(root / "notebooks" / "900_template.ipynb")
    for name, value in {"steps": 0, "batch": 0, "rate": -1.0, "width": 0, "depth": -1, "source": "nope"}.items():
        with pytest.raises(BadInput, match=f"parameter {name} must be "):
            parameters.refuse_out_of_range(name, value, known[name].comment)


def test_what_a_test_notebook_states_is_read():
    assert parameters.stated(PARAMETERS)["steps"].comment == "training steps, >= 1"


def test_a_preset_out_of_range_is_named_with_its_record(tree, capsys, monkeypatch):
    path = shape(tree) / "replications" / "shaped.json"
    kept = record.read(path)
    kept["presets"]["odd"] = {"parameters": {"diagonal": 2.0}}
    record.write(path, kept)
    names = ["shaped.json: presets.odd.parameters: parameter diagonal must be in [0, 1]"]
    judge(Row("preset", ["run", "shaped", "--preset", "odd"], 1, names), tree, monkeypatch, capsys)
