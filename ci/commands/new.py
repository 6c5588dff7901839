"""`new`: a replication that runs, from the template."""

import re

from commands import files, notebooks, parameters
from commands.errors import BadInput
from commands.lists import FLOW_MAP
from commands.tree import TEMPLATE, Tree
from flowcore import record


def new(tree: Tree, paper: str, title: str, url: str, family: str = FLOW_MAP) -> int:
    """Copies the template, which runs under its own name, title and address: these three are replaced."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", paper):
        raise BadInput(f"{paper!r} is not a name like mean_flow: lower case, digits, single underscores")
    for path in (tree.notebook(paper), tree.record(paper)):
        if path.exists():
            raise BadInput(f"{path} exists already")
    template = tree.notebook(TEMPLATE)
    if not template.exists():
        raise BadInput(f"the template {template} is missing")
    given = {name: value for name, value in parameters.defaults(template).items() if name != "seed"}
    notebook = notebooks.load(template)
    for cell in notebook.cells:
        cell.source = cell.source.replace(TEMPLATE, paper)
        cell.source = cell.source.replace("TITLE OF THE PAPER", title).replace("https://example.org/paper", url)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kept = {"title": title, "url": url} | ({} if family == FLOW_MAP else {"family": family})
    tree.replications.mkdir(exist_ok=True)
    notebooks.write(tree.notebook(paper), notebook)
    try:
        with files.naming(tree.record(paper)):
            record.write(tree.record(paper), kept | {"presets": {record.DEFAULT_PRESETS[0]: {"parameters": given}}})
    except BaseException:
        tree.notebook(paper).unlink()  # both or none
        raise
    print(f"{tree.notebook(paper)}\nwrite it, then: ci/replicate run {paper}, ci/replicate record {paper}")
    return 0


def add(verbs) -> None:
    verb = verbs.add_parser("new", help="a new replication from the template")
    verb.add_argument("paper", metavar="PAPER")
    verb.add_argument("--title", required=True)
    verb.add_argument("--url", required=True)
    verb.add_argument("--family", choices=record.FAMILIES, default=FLOW_MAP, help="where the list shows it")
    verb.set_defaults(command=lambda asked, tree: new(tree, asked.paper, asked.title, asked.url, asked.family))
