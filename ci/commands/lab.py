"""`lab`: JupyterLab in this environment, in which looking at a notebook leaves it as it is.

JupyterLab writes the version of the running Python into a notebook as soon as a kernel has started, and saves that by
itself after two minutes. So nothing is saved here unless somebody saves (ci/lab/overrides.json, which also asks for no
news), and what is saved keeps the `language_info` that the file has: saved unchanged, it is the same to the byte.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from commands.arguments import port
from commands.tree import Tree

CI = Path(__file__).resolve().parent.parent


def keep_language(model: dict, path: str, contents_manager, **_) -> None:
    """Before JupyterLab saves: what the kernel said of its language gives way to what the file says, a new file keeps
    the name of the language."""
    if model.get("type") != "notebook" or not isinstance(model.get("content"), dict):
        return
    metadata = model["content"].setdefault("metadata", {})
    here = metadata.pop("language_info", {})
    kept = {"name": here["name"]} if "name" in here else {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        stored = json.loads(Path(contents_manager.root_dir, path.strip("/")).read_text(encoding="utf-8"))
        kept = stored["metadata"].get("language_info", {})
    if kept:
        metadata["language_info"] = kept


def command(tree: Tree, port: int | None = None, browser: bool = True) -> list[str]:
    """What becomes of this process. Root is who one is in a container, and JupyterLab refuses root until told."""
    options = [f"--ServerApp.root_dir={tree.root}"]
    options += [
        f"--LabApp.app_settings_dir={CI / 'lab'}",
        "--FileContentsManager.pre_save_hook=commands.lab.keep_language",
    ]
    options += ["--allow-root"] if os.geteuid() == 0 else []
    options += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"] if port else []  # that port or none
    options += [] if browser else ["--no-browser"]
    return [sys.executable, "-m", "jupyterlab", *options]


def lab(tree: Tree, port: int | None = None, browser: bool = True) -> int:
    above = os.environ.get("PYTHONPATH", "")
    if str(CI) not in above.split(os.pathsep):  # else the hook is not found
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CI), above]))
    os.execv(sys.executable, command(tree, port, browser))


def add(verbs) -> None:
    verb = verbs.add_parser("lab", help="JupyterLab in this environment")
    verb.add_argument("--port", type=port, help="default: 8888, or the next that is free")
    verb.add_argument("--no-browser", action="store_true", help="only print the address")
    verb.set_defaults(command=lambda asked, tree: lab(tree, asked.port, not asked.no_browser))
