"""`lab`: how JupyterLab is started, and that looking at a notebook through its server leaves the file as it is."""

import contextlib
import json
import os
import subprocess
import time
import urllib.request

import nbformat
import pytest
from problems import free_port

from commands import lab
from commands.__main__ import main
from commands.tree import Tree

SPOKEN = {"name": "python", "version": "3.99.1", "mimetype": "text/x-python", "codemirror_mode": {"name": "ipython"}}


@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)], ids=["root", "somebody"])
def test_lab_opens_at_the_root(tree, monkeypatch, user, allowed):
    started = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments) or 0)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("PYTHONPATH", "")
    main(["lab"], tree)
    assert started[0][1:4] == ["-m", "jupyterlab", f"--ServerApp.root_dir={tree}"]
    assert ("--allow-root" in started[0]) == allowed
    assert os.environ["PYTHONPATH"] == str(lab.CI)
    main(["lab", "--port", "8899", "--no-browser"], tree)
    assert {"--ServerApp.port=8899", "--ServerApp.port_retries=0", "--no-browser"} <= set(started[1])


class Manager:
    def __init__(self, root):
        self.root_dir = str(root)


@pytest.mark.parametrize("stored", [None, {"name": "python"}, {"name": "python", "version": "3.1"}])
def test_what_is_saved_keeps_the_language_of_the_file(tree, stored):
    path = tree / "replications" / "paper.ipynb"
    content = json.loads(path.read_text())
    content["metadata"] |= {"language_info": stored} if stored else {}
    path.write_text(json.dumps(content))
    seen = json.loads(path.read_text())
    seen["metadata"]["language_info"] = SPOKEN
    lab.keep_language({"type": "notebook", "content": seen}, "replications/paper.ipynb", Manager(tree))
    assert seen["metadata"].get("language_info") == stored


def test_a_new_notebook_is_saved_with_the_name_of_its_language(tree):
    seen = {"metadata": {"language_info": dict(SPOKEN)}, "cells": []}
    lab.keep_language({"type": "notebook", "content": seen}, "replications/new.ipynb", Manager(tree))
    assert seen["metadata"] == {"language_info": {"name": "python"}}
    lab.keep_language({"type": "file", "content": "text"}, "replications/new.txt", Manager(tree))


@contextlib.contextmanager
def server(root):
    """The address of JupyterLab as `lab` starts it, without a token."""
    port = free_port()
    command = [*lab.command(Tree(root), port, browser=False), "--IdentityProvider.token="]
    environment = os.environ | {"PYTHONPATH": f"{lab.CI}", "JUPYTER_CONFIG_DIR": str(root / "no configuration")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://localhost:{port}"
        for _ in range(300):
            assert process.poll() is None, "JupyterLab has ended"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api").close()
                break
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_the_server_saves_a_notebook_as_it_was_and_saves_nothing_by_itself(tree):
    path = tree / "replications" / "paper.ipynb"
    before = nbformat.read(path, as_version=4)
    before.metadata["language_info"] = {"name": "python"}
    nbformat.write(before, path)
    kept = path.read_bytes()
    with server(tree) as address:

        def ask(what, content=None):
            data = None if content is None else json.dumps(content).encode()
            request = urllib.request.Request(f"{address}/{what}", data, method="PUT" if data else "GET")
            request.add_header("X-XSRFToken", "x")
            request.add_header("Cookie", "_xsrf=x")
            with urllib.request.urlopen(request) as reply:
                return json.load(reply)

        seen = ask("api/contents/replications/paper.ipynb")
        seen["content"]["metadata"]["language_info"] = SPOKEN  # as JupyterLab does when the kernel has started
        ask("api/contents/replications/paper.ipynb", {"type": "notebook", "content": seen["content"]})
        assert path.read_bytes() == kept

        def default(plugin, name):
            return ask(f"lab/api/settings/@jupyterlab/{plugin}")["schema"]["properties"][name]["default"]

        assert default("docmanager-extension:plugin", "autosave") is False
        assert default("apputils-extension:notification", "fetchNews") == "false"
        assert default("apputils-extension:notification", "checkForUpdates") is False
