"""Notebooks executed in kernels of their own, `jobs` at a time, with a line per cell.

papermill's own status is not trusted (it calls cells completed that never ran): a run is good when every code cell has
an execution count and none has an error.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from commands import files, notebooks
from commands.errors import Failed, first_line, in_words


@dataclass(frozen=True)
class Run:
    """One execution of a notebook with parameters, in a folder where its record lies."""

    source: Path
    output: Path
    parameters: dict[str, object]
    cwd: Path
    label: str
    html: bool = False

    def __call__(self) -> str | None:
        """Executes; a line per cell. Returns what failed, or None."""
        import papermill
        from jupyter_core.utils import ensure_event_loop

        source = notebooks.load(self.source)
        # which parameters there are has been checked; papermill does not read a line with two equal signs, and says so
        logging.getLogger("papermill").setLevel(logging.ERROR)
        above, total = notebooks.headings(source), len(notebooks.code_cells(source)) + bool(self.parameters)
        started, begun, stopped = time.monotonic(), [], None

        def announce(cell, cell_index):
            begun.append(cell)
            at = f"{len(begun)}/{total}  {time.monotonic() - started:4.0f} s"
            print(f"{self.label}  {at}  {above.get(cell.id, 'given parameters')}", flush=True)

        try:
            papermill.execute_notebook(
                literally(self.source),
                literally(self.output),
                self.parameters,
                resources={"metadata": {"path": str(self.cwd)}},  # papermill's own `cwd` would move all threads
                kernel_name="python3",
                progress_bar=False,
                on_cell_execute=announce,
                coalesce_streams=True,
                extra_arguments=["--log-level=CRITICAL"],  # else kernels report to listen and to be stopped
            )
        except papermill.PapermillExecutionError:
            pass  # the error is in the notebook that was saved
        except OSError as error:  # of what papermill could not save, nothing can be read
            return f"{self.source.name}: {in_words(error)}"
        except Exception as error:  # a dead kernel, a timeout: papermill calls the cells of what it saves completed
            stopped = f"{type(error).__name__}: {first_line(str(error))}"
        finally:
            ensure_event_loop().close()  # each thread has got one
        if not begun:
            return f"{self.source.name} did not start: {stopped}"
        if self.html:
            write_html(self.output)
        failed = (
            notebooks.place(begun[-1], above, stopped) if stopped else notebooks.failure(notebooks.load(self.output))
        )
        return f"{self.source.name}, {failed}" if failed else None


def literally(path: Path) -> str:
    """papermill formats its paths, so that a brace would be a field."""
    return str(path).replace("{", "{{").replace("}", "}}")


def write_html(path: Path) -> None:
    body, _ = page_exporter().from_filename(str(path))
    files.write(path.with_suffix(".html"), body)


def page_exporter(**options):
    """nbconvert's, which would warn on every run that figures lack a text; its template cannot give them one."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(**options)
    exporter.log.setLevel("ERROR")
    return exporter


def execute(runs: Sequence[Run], jobs: int) -> Iterator[str | None]:
    """What failed in each run, in order; `jobs` kernels at a time. Leaving early does not wait for those that run."""
    share_cores(jobs)
    pool = ThreadPoolExecutor(jobs)
    try:
        yield from pool.map(Run.__call__, runs)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def share_cores(jobs: int) -> None:
    """As many threads for each kernel as it has cores to itself: with more, two notebooks on two cores take half as
    long again. NPROC is how XLA is told."""
    os.environ.setdefault("NPROC", str(max(1, (os.cpu_count() or 1) // jobs)))


def require_device() -> None:
    """Raises Failed when JAX is told to use a device that it does not find: every kernel would fail at its first array.
    Asked in a process of its own: one that has taken an accelerator may keep it from the kernels."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if wanted in ("", "cpu"):
        return
    asked = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], capture_output=True)
    if asked.returncode:
        remedy = "unset it, or install a JAX for that device (pip install 'jax[cuda13]', 'jax[tpu]')"
        raise Failed(f"JAX_PLATFORMS={wanted}: JAX finds no such device here: {remedy}")
