"""What is read in a notebook before and after it is executed.

Reading takes plain JSON, so that a wrong command is answered without nbformat, whose import takes most of a second.
Every function takes the cells of either, which are dictionaries both.
"""

import base64
import io
import json
import re
from pathlib import Path

from commands import files
from commands.errors import NotebookFailed, first_line


def read(path: Path) -> dict:
    """The notebook as plain dictionaries, every source as one text. Raises NotebookFailed for what is no notebook."""
    try:
        notebook = json.loads(files.read_text(path))
    except (ValueError, RecursionError) as error:
        raise NotebookFailed(f"{path} is not a notebook: not JSON: {first_line(str(error))}") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(map(is_cell, cells)):
        raise NotebookFailed(
            f"{path} is not a notebook: it needs a list of cells, each with a type, source and metadata"
        )
    if notebook.get("nbformat") != 4:
        raise NotebookFailed(f"{path} is not a notebook of format 4, but of {notebook.get('nbformat')}")
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return notebook


def is_cell(cell: object) -> bool:
    """What the functions below read is there; nbformat has the last word when the notebook is executed."""
    if not isinstance(cell, dict) or not isinstance(cell.get("metadata"), dict):
        return False
    source = cell.get("source")
    text = isinstance(source, str) or isinstance(source, list) and all(isinstance(line, str) for line in source)
    outputs = cell.get("outputs", None if cell.get("cell_type") == "code" else [])
    return text and isinstance(outputs, list) and all(isinstance(o, dict) and "output_type" in o for o in outputs)


def load(path: Path):
    """The notebook as nbformat validates and writes it. Raises NotebookFailed for what is no notebook."""
    import nbformat

    try:
        return nbformat.reads(files.read_text(path), as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as error:
        raise NotebookFailed(f"{path} is not a notebook: {first_line(str(error))}") from None


def write(path: Path, notebook) -> None:
    """Replaces the notebook in one move."""
    import nbformat

    text = nbformat.writes(notebook)
    files.write(path, text if text.endswith("\n") else f"{text}\n")


def tagged(cell: dict, tag: str) -> bool:
    tags = cell["metadata"].get("tags")
    return isinstance(tags, list) and tag in tags


def printed(cell: dict) -> str:
    """What a reader of the cell's outputs reads as plain text."""
    texts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell["outputs"]]
    return "\n".join("".join(text) for text in texts)


def agreed(notebook: dict) -> bool:
    """Whether the output of the last cell has a metric that is ok: without, nothing was compared."""
    return any(line.endswith(" ok") for line in printed(code_cells(notebook)[-1]).splitlines())


def lighten(output: dict) -> dict:
    """The output with its pictures in 256 colours, which is all that a figure has: a third of the bytes."""
    from PIL import Image

    for kind, content in output.get("data", {}).items():
        if kind == "image/png":
            light = io.BytesIO()
            with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
                opaque = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
            opaque.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(light, "PNG", optimize=True)
            if len(light.getvalue()) < len(base64.b64decode(content)):
                output["data"][kind] = base64.b64encode(light.getvalue()).decode()
    return output


def code_cells(notebook: dict) -> list[dict]:
    """The cells that a kernel runs; it skips empty ones."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["source"].strip()]


def headings(notebook: dict) -> dict[str, str]:
    """Cell id -> the heading above the cell."""
    heading, above = "top", {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            heading = next((m[1] for m in reversed(list(re.finditer(r"^#+ +(.+)$", cell["source"], re.M)))), heading)
        above[cell.get("id")] = heading
    return above


def failure(notebook: dict) -> str | None:
    """The first code cell that failed or never ran, with the reason; None when all is well."""
    above = headings(notebook)
    for cell in code_cells(notebook):
        error = next((output for output in cell["outputs"] if output["output_type"] == "error"), None)
        if error is not None or cell.get("execution_count") is None:
            reason = f"{error['ename']}: {first_line(error['evalue'])}" if error else "was not executed"
            return place(cell, above, reason)
    return None


def place(cell: dict, above: dict[str, str], reason: str) -> str:
    return f"section '{above.get(cell.get('id'), 'given parameters')}', cell `{first_line(cell['source'])}`: {reason}"
