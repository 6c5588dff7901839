"""What a command may end with besides success, and what the operating system refused in plain words."""

import errno
import os


class BadInput(Exception):
    """The command cannot be carried out as it was asked; the message is one line that says what is available. Nothing
    was started. Exit code 2."""


class Failed(Exception):
    """Something did not run to its end, or may not be trusted. Exit code 1."""


class NotebookFailed(Failed):
    """A notebook did not run to its end, or may not be trusted."""


FREE = "free some and try again"
COPY = "work in a copy that you may write to"
WORDS = {  # what happened, and the remedy
    errno.ENOSPC: ("no space left on device", FREE),
    errno.EDQUOT: ("your quota of the disk is used up", FREE),
    errno.EFBIG: ("larger than a file may become here", "see ulimit -f"),
    errno.EROFS: ("the file system is read-only", COPY),
    errno.EACCES: ("permission denied", f"make it yours, or {COPY}"),
    errno.EPERM: ("not permitted", f"make it yours, or {COPY}"),
    errno.EMFILE: ("too many open files", "fewer --jobs, or see ulimit -n"),
    errno.ENOMEM: ("not enough memory", "fewer --jobs"),
}


def in_words(error: OSError) -> str:
    """One line: the file, what happened, and the remedy where there is one."""
    happened, remedy = WORDS.get(error.errno, (error.strerror or first_line(str(error)) or type(error).__name__, ""))
    return ": ".join(part for part in (text(error.filename), happened, remedy) if part)


def text(name: object) -> str:
    """The name of a file as the error holds it; of a descriptor there is none."""
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
