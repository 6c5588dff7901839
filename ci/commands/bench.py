"""`bench`: time and memory on this machine, into ci/bench.json, README's table and its figure."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from commands import files, readme
from commands.benchmarks import NAMES
from commands.errors import BadInput, Failed, first_line
from commands.execution import require_device
from commands.tree import Tree
from flowcore import record

PEERS = {  # what `bench peers` is held against; packages without their dependencies, which only their trainers need
    "torch==2.13.0": [],
    "einops==0.8.2": [],
    "rectified-flow-pytorch==0.14.0": ["--no-deps"],
}
RESTORE = "restore it from git, or remove it and measure anew"


def bench(tree: Tree, names: Sequence[str]) -> int:
    """Runs the named measurements, or all, and rewrites record, table and figure after each."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise BadInput(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    place = tree.root / "ci" / "bench.json"
    recorded = read(place)
    readme.with_block(tree, "bench", "")  # refuses a README without a place for the table before an hour is spent
    require_device()
    from commands.benchmarks import measurements, report  # here: they import JAX

    with tree.lock("bench", "benchmarks are being run"):  # two would time each other
        for name in names or NAMES:
            if name == "peers":
                make_peers(tree)
            where, started = record.provenance() | {"load": os.getloadavg()[0]}, time.perf_counter()
            recorded[name] = {"recorded": where, "numbers": measurements.MEASUREMENTS[name]()}
            print(f"{name}: {time.perf_counter() - started:.0f} s, at a load of {where['load']:.1f}", flush=True)
            ordered = {name: recorded[name] for name in NAMES if name in recorded}
            with files.naming(place):
                record.write_whole(place, ordered)
            readme.rewrite(tree, "bench", report.table(ordered))
            if name == "steps":
                picture = io.BytesIO()
                report.figure(ordered).savefig(picture, format="png", metadata={"Software": None}, dpi=144)
                files.write(tree.root / ".github" / "bench.png", picture.getvalue())
    print(report.table(ordered))
    return 0


def read(place) -> dict:
    """What was measured before. Raises Failed for a file that holds something else."""
    if not place.exists():
        return {}
    try:
        recorded = json.loads(files.read_text(place))
    except ValueError as error:
        raise Failed(f"{place}: not JSON: {first_line(str(error))}: {RESTORE}") from None
    if not isinstance(recorded, dict):
        raise Failed(f"{place}: must be an object with an entry for each benchmark: {RESTORE}")
    return recorded


def make_peers(tree: Tree) -> None:
    """The environment that `ci/peers.py` runs in, made again when its packages change."""
    folder, wanted = tree.build / "peers", "\n".join(PEERS)
    stamp = folder / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {', '.join(PEERS)} into {folder}", file=sys.stderr, flush=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    commands = [[sys.executable, "-m", "venv", "--clear", folder]]
    commands += [[*pip, *options, package] for package, options in PEERS.items()]
    for command in commands:
        if subprocess.run(command).returncode:
            raise Failed(f"the peer's environment could not be made: {' '.join(map(str, command))}")
    files.write(stamp, wanted)


def add(verbs) -> None:
    verb = verbs.add_parser("bench", help="time and memory on this machine, into ci/bench.json and README.md")
    verb.add_argument("names", nargs="*", metavar="NAME", help="default: all, about twelve minutes")
    verb.set_defaults(command=lambda asked, tree: bench(tree, asked.names))
