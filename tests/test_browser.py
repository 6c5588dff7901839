"""What a reader sees, in chromium or Chrome: the pages of `ci/replicate site`, and a replication run in JupyterLab."""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import websocket  # a dependency of JupyterLab's server
from problems import free_port

from commands.__main__ import main
from flowcore import METHODS

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]  # Debian's, then Google's names
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@pytest.fixture
def chromium():
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    return found[0] if found else pytest.skip(f"none of {', '.join(BROWSERS)} on this machine")


def test_a_browser_shows_the_front_page_and_a_replication(chromium):
    assert main(["site"]) == 0

    def seen(page):
        options = [*HEADLESS, "--virtual-time-budget=5000", "--dump-dom"]
        address = (ROOT / "build" / "site" / page).as_uri()
        return subprocess.run([chromium, *options, address], capture_output=True, text=True, timeout=120).stdout

    front = seen("index.html")
    assert all(f">{row.name}</a></td>" in front for row in METHODS)
    replication = seen("replications/mean_flow.html")
    assert "9 Recorded metrics" in replication and "as recorded" in replication and "data:image/png" in replication


def test_a_replication_runs_in_jupyterlab_and_shows_its_verdicts(chromium, tmp_path):
    """Opened without its outputs, so that what is found was made by `Run All Cells`: a minute or two."""
    name = "flow_matching"
    notebook = nbformat.read(ROOT / "replications" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    shutil.copy(ROOT / "replications" / f"{name}.json", tmp_path)
    port, debugging = free_port(), free_port()
    lab = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    lab += [f"--port={port}", "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}"]
    address = f"http://localhost:{port}/lab/tree/{name}.ipynb"
    browser = [chromium, *HEADLESS, f"--remote-debugging-port={debugging}", "--remote-allow-origins=*"]
    browser += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900"]
    with running(lab), answer(f"http://localhost:{port}/api"), running([*browser, address]), Page(debugging) as page:
        page.wait("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'", 120)
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')", wait=False)
        cells = "jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells"
        page.wait(f"{cells}.filter(cell => cell.cell_type == 'code').every(cell => cell.execution_count)", 900)
        page.wait("document.body.innerText.includes('as recorded')", 60)
        text = page.evaluate("document.body.innerText")
    assert re.search(r"(\d+) of \1 metrics in band, (\d+) of \2 claims as recorded", text)


@contextlib.contextmanager
def running(command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def answer(address: str, seconds: float = 60):
    """The open reply of a server that may still be starting."""
    for _ in range(int(5 * seconds)):
        try:
            return urllib.request.urlopen(address)
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"{address} does not answer")


class Page:
    """The browser's one page, spoken to in the DevTools protocol."""

    def __init__(self, port: int):
        pages = []
        while not pages:  # the browser answers before it has opened one
            with answer(f"http://localhost:{port}/json/list") as reply:
                pages = [each for each in json.load(reply) if each["type"] == "page"]
        (target,) = pages
        self.socket = websocket.create_connection(target["webSocketDebuggerUrl"], timeout=120)
        self.ids = itertools.count()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.socket.close()

    def evaluate(self, expression: str, wait: bool = True):
        """The value of a JavaScript expression, of a promise when it is kept unless `wait` is false."""
        number = next(self.ids)
        asked = {"expression": expression, "awaitPromise": wait, "returnByValue": wait}
        self.socket.send(json.dumps({"id": number, "method": "Runtime.evaluate", "params": asked}))
        while (reply := json.loads(self.socket.recv())).get("id") != number:
            pass
        return reply.get("result", {}).get("result", {}).get("value")  # nothing while the page is changing

    def wait(self, expression: str, seconds: float) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while self.evaluate(expression) is not True:
            if time.monotonic() > end:
                raise TimeoutError(f"after {seconds} s it is still not so: {expression}")
            time.sleep(0.5)
