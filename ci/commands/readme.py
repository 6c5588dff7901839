"""The parts of README.md that are generated."""

from commands import files
from commands.errors import BadInput
from commands.tree import Tree


def with_block(tree: Tree, name: str, content: str) -> tuple[str, str]:
    """README as it is, and with `content` between its lines `<!-- name -->` and `<!-- /name -->`."""
    readme, first, last = tree.root / "README.md", f"<!-- {name} -->", f"<!-- /{name} -->"
    text = files.read_text(readme) if readme.exists() else ""
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not end:
        raise BadInput(f"{readme} needs a line {first} and, below it, a line {last}")
    return text, f"{before}{start}\n{content}\n{end}{after}"


def rewrite(tree: Tree, name: str, content: str) -> None:
    """Puts the block in its place. Another writer is waited for, so that neither loses the block of the other."""
    before, after = with_block(tree, name, content)
    if after == before:
        return
    with files.waited_for(tree.build / "locks", "README.md"):
        files.write(tree.root / "README.md", with_block(tree, name, content)[1])
