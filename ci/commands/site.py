"""`site`: every notebook as a page under build/site, as it was recorded; the landscape is the front page."""

import re
import shutil
from pathlib import Path

from commands import files, notebooks
from commands.errors import BadInput
from commands.execution import page_exporter
from commands.tree import TEMPLATE, Tree

FRONT = "100_landscape"
STYLE = (
    "<style>.jp-RenderedMarkdown pre { font-family: var(--jp-code-font-family, monospace); }</style>"  # else it is text
)


def site(tree: Tree) -> int:
    """The pages are made beside the old ones, which they replace when all are there."""
    names = [path.stem for path in sorted((tree.root / "notebooks").glob("*.ipynb")) if path.stem != TEMPLATE]
    if FRONT not in names:
        raise BadInput(f"the front page {tree.notebook(FRONT)} is missing")
    for name in names + tree.papers():
        notebooks.read(tree.notebook(name))
    with tree.lock("site", "the site is being made"):
        top, part = tree.build / "site", tree.build / "site.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            make_pages(tree, names, part)
            files.swap(part, top)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    print(top / "index.html")
    return 0


def make_pages(tree: Tree, names: list[str], top: Path) -> None:
    import nbformat

    exporter = page_exporter(exclude_input_prompt=True, exclude_output_prompt=True)
    for name in names + tree.papers():
        notebook, above = notebooks.load(tree.notebook(name)), "" if name == FRONT else "../"
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = linked(cell.source, name)
            for output in cell.get("outputs", []):
                if text := output.get("data", {}).get("text/markdown"):
                    output["data"]["text/markdown"] = linked(text, name)
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(contents(tree, names, above)))
        notebook.metadata["title"] = name
        page = top / ("index.html" if name == FRONT else f"{tree.folder(name).name}/{name}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        body, _ = exporter.from_notebook_node(notebook)
        files.write(page, body.replace("</head>", f"{STYLE}</head>", 1))


def linked(text: str, name: str) -> str:
    """Links to notebooks become links to their pages; the front page lies one folder higher than its notebook."""

    def page(link: re.Match) -> str:
        folder, target, anchor = link[1], link[2], link[3] or ""
        if name == FRONT:
            folder = folder.removeprefix("../") or "notebooks/"
        if target == FRONT:
            folder, target = "" if name == FRONT else "../", "index"
        return f"]({folder}{target}.html{anchor})"

    return re.sub(r"\]\(((?:\.\./)?(?:\w+/)?)(\w+)\.ipynb(#[^)\s]*)?\)", page, text)


def contents(tree: Tree, names: list[str], above: str) -> str:
    """The line of links at the top of every page."""
    reading = [f"[{name}]({above}notebooks/{name}.html)" for name in names if name != FRONT]
    papers = [f"[{name}]({above}replications/{name}.html)" for name in tree.papers()]
    return " · ".join([f"[{FRONT}]({above}index.html)", *reading, *papers])


def add(verbs) -> None:
    verb = verbs.add_parser("site", help="every notebook as a page under build/site, the landscape in front")
    verb.set_defaults(command=lambda asked, tree: site(tree))
