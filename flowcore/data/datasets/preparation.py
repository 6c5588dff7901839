"""From original files to a folder that TFDS can read: whole or not at all, and never with a long silence."""

import contextlib
import io
import os
import re
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path

import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from flowcore.data.datasets.originals import DataError, ImageBuilder, original_files

PATIENCE = 5.0  # seconds that a host has to answer before we say that there is no network


def prepare(
    name: str, builder: type[ImageBuilder], root: Path, from_files: str | os.PathLike | None, download: bool
) -> None:
    """Have `builder` write its data set into `root`, whole or not at all. Raises `DataError`."""
    files = None
    if from_files is not None:
        files = original_files(builder, Path(from_files).expanduser())
    elif builder.URLS:
        refuse_unreachable(name, builder.URLS, root, download)
    with explained(f"{name} could not be prepared in {root}", "Nothing was kept; put this right and load again"):
        root.mkdir(parents=True, exist_ok=True)
        # All is written beside its place and moved there in one go: an interrupt leaves nothing, and of two processes
        # that prepare the same set neither sees the other's half.
        with tempfile.TemporaryDirectory(prefix=".preparing-", dir=root, ignore_cleanup_errors=True) as scratch:
            work = builder(data_dir=scratch)
            work.files = files
            with without_output(bars=files is None and bool(builder.URLS)), checksum_explained(name):
                work.download_and_prepare(
                    file_format="array_record",
                    download_config=tfds.download.DownloadConfig(force_checksums_validation=True),
                )
            publish(Path(work.data_dir), root / builder.name / str(builder.VERSION))


def publish(folder: Path, target: Path) -> None:
    """Move a prepared folder to its place, unless another process was faster."""
    target.parent.mkdir(exist_ok=True)
    try:
        folder.rename(target)
    except OSError:
        if not (target / "dataset_info.json").is_file():
            raise


def refuse_unreachable(name: str, urls: Iterable[str], root: Path, download: bool) -> None:
    """Raise `DataError` if we may not download or if a host does not answer. TFDS alone would retry for minutes."""
    remedy = "or pass from_files=FOLDER with the original files, or data_dir=FOLDER where it is prepared"
    if not download:
        raise DataError(f"{name} is not prepared in {root}, and download=False. Pass download=True, {remedy}")
    for url in urls:
        if trouble := ask(url):
            raise DataError(
                f"{name} cannot be downloaded: {url}: {trouble}. Connect to the network (or a proxy), {remedy}"
            )


def ask(url: str) -> str:
    """What is wrong with a URL, or "" if its host serves it. Goes through the same client and proxies as TFDS."""
    answers = []

    def request():
        try:
            with requests.get(url, stream=True, timeout=PATIENCE, headers={"Range": "bytes=0-0"}) as response:
                answers.append("" if response.ok else f"the server answers {response.status_code} {response.reason}")
        except requests.RequestException as error:
            answers.append(f"no connection ({error})")

    # a timeout does not bound the look-up of the host's name; a thread that is left behind does
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE)
    return answers[0] if answers else f"no answer in {2 * PATIENCE:g} seconds"


@contextlib.contextmanager
def checksum_explained(name: str):
    """Say in our words that TFDS found a wrong checksum."""
    try:
        yield
    except tfds.core.download.download_manager.NonMatchingChecksumError as error:
        found = re.sub(r", downloaded to \S+,", "", str(error)).split("To debug")[0].strip()
        raise DataError(
            f"{name}: {found}\nThe file was thrown away. Load again, or pass from_files=FOLDER with the original files"
        ) from error


@contextlib.contextmanager
def without_output(bars: bool):
    """Without the banner of TFDS, which differs from run to run; with its progress bars only if they were on."""
    shown = tqdm_utils._active  # TFDS has a way to set this and none to ask
    tfds.display_progress_bar(bars and shown)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(shown)


@contextlib.contextmanager
def explained(problem: str, remedy: str):
    """Turn whatever goes wrong inside into a `DataError` that ends with the remedy."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(f"{problem}: {cause}. {remedy}") from error
