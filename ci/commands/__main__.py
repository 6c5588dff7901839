"""The command line of the replications: run, check, record and list them. `ci/replicate --help` says how.

Exit codes: 0 all well, 1 something failed, cannot be read or written, or is out of date, 2 a command that cannot be
carried out as it was asked. Whatever is not 0 is said in one line that names the thing and the remedy.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from commands import bench, check, lab, lists, new, refresh, renew, run, site
from commands import record as recording
from commands.arguments import OneLineParser
from commands.errors import BadInput, Failed, first_line, in_words
from commands.tree import Tree
from flowcore import record

ROOT = Path(__file__).resolve().parent.parent.parent


def command_line() -> OneLineParser:
    parser = OneLineParser(prog="ci/replicate", description="Run, check and record the replications.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in (lists, run, check, recording, refresh, renew, new, bench, site, lab):
        module.add(verbs)
    return parser


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Exit code of one command; `root` is the repository it works on."""
    try:
        asked = command_line().parse_args(arguments)
        code = asked.command(asked, Tree(root))
        sys.stdout.flush()
        return code
    except BadInput as error:
        return said(str(error), 2)
    except (Failed, record.RecordError) as error:
        return said(str(error), 1)
    except KeyboardInterrupt:
        return said("interrupted; nothing recorded was changed", 130)
    except BrokenPipeError:  # of `list | head`; what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        return said(in_words(error), 1)
    except UnicodeError as error:
        return said(first_line(str(error)), 1)


def said(message: str, code: int) -> int:
    print(f"replicate: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    code = main()
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(code)  # after a failure or an interruption other notebooks may still run: their kernels end with us
