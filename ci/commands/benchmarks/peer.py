"""The peer: another implementation, in an environment of its own, that takes turns with ours."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

from commands.benchmarks import train_step
from commands.benchmarks.timing import in_turn, ratio, summary
from commands.benchmarks.train_step import FLOW_MATCHING
from flowcore import methods, times
from flowcore.objectives.terms import Objective

ROOT = Path(__file__).resolve().parents[3]
PEER = ROOT / "build" / "peers"  # its environment

# What the peer calls a loss -> ours at the same cost per row; but in LSD the peer takes all rows through both of its
# losses and masks one of them, where ours splits the batch.
COUNTERPARTS = {
    FLOW_MATCHING: methods.flow_matching_terms,
    "MeanFlow": methods.mean_flow_terms,
    "SplitMeanFlow": lambda: methods.psd_terms(diagonal=0.5, share=times.uniform),
    "SoFlow": lambda: methods.soflow_terms(diagonal=0.75),
    "LSD": methods.lsd_terms,
}
# SoFlow's step is finite, so with a conditional velocity its gradient is zero only as the step goes to zero: ours too
PROVEN = ("MeanFlow", "SplitMeanFlow", "SplitMeanFlow, jumps alone", "SoFlow, last step", "LSD")
THRESHOLD = 4.0  # standard errors


def peers(rounds: int = 5, length: int = 20, batches: int = 60) -> dict:
    """A training step of `rectified-flow-pytorch` in eager PyTorch, on the same network and batch, and whether the
    gradient of its losses is zero at the exact map of Gaussian data. `ci/replicate` makes its environment."""
    with peer() as ask:

        def timed(name, terms, count, **layout):
            there = {"step": name, "steps": count} | layout
            ours = train_step.step_seconds(Objective(terms()), count, model=train_step.network(**layout))
            return {f"{name}, there": lambda: ask(there), f"{name}, here": ours}

        found = {}
        for title, layout, names, count in (
            ("128 units", {"width": 128, "depth": 2}, COUNTERPARTS, length),
            ("512 units", train_step.WIDE, (FLOW_MATCHING, "MeanFlow"), max(1, length // 5)),
        ):
            calls = [timed(name, COUNTERPARTS[name], count, **layout) for name in names]
            seconds = in_turn({name: call for pair in calls for name, call in pair.items()}, rounds)
            found[title] = {
                name: {
                    "seconds there": summary(seconds[f"{name}, there"]),
                    "here over there": ratio(seconds[f"{name}, here"], seconds[f"{name}, there"]),
                    "time there": ratio(seconds[f"{name}, there"], seconds[f"{FLOW_MATCHING}, there"]),
                    "time here": ratio(seconds[f"{name}, here"], seconds[f"{FLOW_MATCHING}, here"]),
                }
                for name in names
            }
        scores = {name: ask({"stationary": name, "batches": batches}) for name in PROVEN}
    stationary = {name: z | {"passes": z["exact"] < THRESHOLD < z["wrong sign"]} for name, z in scores.items()}
    return found | {"stationary": stationary}


@contextlib.contextmanager
def peer():
    """A question answered by `ci/peers.py` in its own environment, on as many threads as there are cores."""
    python = PEER / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError("the peer's environment is missing: ci/replicate bench peers makes it")
    command = [python, ROOT / "ci" / "peers.py", str(os.cpu_count())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:

        def ask(question: dict):
            print(json.dumps(question), file=running.stdin, flush=True)
            return json.loads(running.stdout.readline())

        try:
            yield ask
        finally:
            running.stdin.close()
