"""Files that are replaced in one move, so that whoever reads one sees the old or the new; and locks, where two commands
may meet."""

import contextlib
import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from commands.errors import BadInput, Failed
from flowcore import record


def read_text(path: Path) -> str:
    """Raises Failed, naming the file, for one that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise Failed(f"{path}: not UTF-8 (byte 0x{byte:02x} at {error.start}): save it as UTF-8") from None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[Path]:
    """The name beside `path` to write to. Whatever goes wrong is said of `path`, and what was half written goes."""
    part = record.part_of(path)
    try:
        yield part
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            error.filename = str(path)
        raise


def write(path: Path, content: str | bytes) -> None:
    """Replaces the file in one move; of a link, the file that it leads to. Who may read it stays."""
    path = Path(os.path.realpath(path))
    with naming(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        keep_mode(path, part)
        os.replace(part, path)


def keep_mode(path: Path, part: Path) -> None:
    with contextlib.suppress(OSError):  # there is none yet, or the file system has none
        shutil.copymode(path, part)


def move(pairs: dict[Path, Path]) -> None:
    """Each source replaces its target, which may lie on another disk. All are copied beside their targets before the
    first is replaced, and an interruption waits for the last."""
    with contextlib.ExitStack() as stack:
        parts = {target: stack.enter_context(naming(target)) for target in pairs.values()}
        for source, target in pairs.items():
            shutil.copyfile(source, parts[target])
            keep_mode(target, parts[target])
        with uninterrupted():
            for target, part in parts.items():
                os.replace(part, target)
    for source in pairs:
        source.unlink()


def swap(folder: Path, target: Path) -> None:
    """The folder takes the place of the target, which is put back when that fails."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    with uninterrupted():
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(folder, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C is heard at the end. Only the main thread hears it at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def held(folder: Path, name: str, busy: str) -> Iterator[None]:
    """A lock under `folder`, which ends with the process that holds it, however it ends. Raises BadInput, beginning
    with `busy`, when another holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BadInput(f"{busy} by process {file.read().strip() or '?'}: wait for it, or end it") from None
        file.truncate(0)
        with contextlib.suppress(OSError):  # on a full disk the lock holds, though nobody can read whose it is
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


@contextlib.contextmanager
def waited_for(folder: Path, name: str) -> Iterator[None]:
    """Such a lock for what takes a moment: whoever comes second waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
