"""Sabotage of the core and its settings, which the records must notice: `python tests/sabotage.py [--check] [words]`.

A sabotage is one subtle change of one line, of a kind that no proof of an equality sees: a rate, a decay, a clip, a law
of times, an embedding, an initial weight, the path, the data. It is put into a copy of the repository, where first the
fingerprints of the notebooks that it names are taken (seconds, and all that `ci/test` asks), and then, with `--check`
and where these are as recorded, those notebooks are run again and compared (minutes, as `ci/replicate check` does).
It passes unnoticed when all agree. Not a test itself: fingerprints alone take a quarter of an hour.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("flowcore", "tests", "ci", "replications", "notebooks", "pyproject.toml", "README.md")
MF, FMM, SC, CM = "mean_flow", "flow_map_matching", "shortcut_models", "consistency_models"


class Sabotage(NamedTuple):
    file: str
    old: str
    new: str
    notebooks: tuple[str, ...] = (MF,)  # whose numbers it moves; the first of them to notice is enough

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()} -> {self.new.strip()}".replace("\n", " ")


SABOTAGES = (
    # settings of the optimiser and of the averages
    Sabotage("training/recipe.py", "clip: float = 1.0)", "clip: float = 30.0)"),
    Sabotage("training/recipe.py", "cosine_decay_schedule(rate, steps)", "cosine_decay_schedule(rate, steps, 0.05)"),
    Sabotage("training/recipe.py", "cosine_decay_schedule(rate, steps)", "cosine_decay_schedule(1.02 * rate, steps)"),
    Sabotage("training/recipe.py", "optax.adam(optax", "optax.adam(b2=0.99, learning_rate=optax"),
    Sabotage("training/recipe.py", "optax.adam(optax", "optax.adamw(weight_decay=0.01, learning_rate=optax"),
    Sabotage("training/loop.py", "average_decay: float = 0.999,", "average_decay: float = 0.99,"),
    Sabotage("training/loop.py", "(1 + step) / (10 + step))", "(1 + step) / (1000 + step))"),
    Sabotage("training/loop.py", "update_average(state.target, model, target_decay)",
             "update_average(state.target, state.model, target_decay)", (SC, CM)),
    # the path, the laws of times, the embeddings, the initial weights
    Sabotage("path.py", "return (1 - t) * x0 + t * eps", "return (1 - t) * x0 + (0.99 * t + 0.01 * t**2) * eps"),
    Sabotage("path.py", "return eps - x0", "return 0.99 * eps - x0"),
    Sabotage("objectives/times.py", "return jax.random.uniform(key, (n,))",
             "return jax.random.uniform(key, (n,), minval=1e-2)"),
    Sabotage("objectives/times.py", "jnp.arange(n) < round(share * n)", "jnp.arange(n) <= round(share * n)"),
    Sabotage("objectives/times.py", "jax.random.randint(key_level, (n,), 0, levels)",
             "jax.random.randint(key_level, (n,), 0, levels - 1)", (SC,)),
    Sabotage("networks/layers.py", "phase = (0.5 * jnp.pi)", "phase = (0.6 * jnp.pi)"),
    Sabotage("networks/layers.py", "return jnp.stack([s, s - t])", "return jnp.stack([s, t])"),
    Sabotage("networks/layers.py", "jnp.zeros_like(p) if", "jnp.full_like(p, 1e-3) if"),
    Sabotage("networks/layers.py", "eqx.nn.Lambda(jax.nn.silu)", "eqx.nn.Lambda(jax.nn.gelu)"),
    Sabotage("networks/mlp.py", "hidden = hidden + block(", "hidden = hidden + 0.95 * block("),
    # the data, the noise, what is measured
    Sabotage("exact/mixture.py", "(jnp.sqrt(self.variances[mode]) * noise)",
             "(jnp.sqrt(1.02 * self.variances[mode]) * noise)"),
    Sabotage("tasks/garments.py", "sharpness * variances", "sharpness * 1.02 * variances"),
    Sabotage("tasks/laws.py", "jax.random.split(jax.random.key(SEED))", "jax.random.split(jax.random.key(SEED + 1))"),
    Sabotage("metrics.py", "return float(rms(samples - reference))",
             "return float(rms((samples - reference)[1:]) * 1.02)"),
    # the equalities' surroundings
    Sabotage("losses/eulerian.py", "stop_gradient(v_x + (t - s) * dV_ds)",
             "stop_gradient(v_x + 0.98 * (t - s) * dV_ds)"),
    Sabotage("losses/distances.py", "jnp.sum((left - right) ** 2)", "jnp.sum(jnp.abs(left - right) ** 1.98)"),
    Sabotage("maps/steps.py", "(first + self.field(x + (t - s) * first, t)) / 2",
             "(1.02 * first + 0.98 * self.field(x + (t - s) * first, t)) / 2", (CM,)),
    Sabotage("objectives/schedules.py", "def even(share):\n", "def even(share):\n    share = share**1.05\n", (CM,)),
    Sabotage("training/recipe.py", "jax.random.key(self.seed + 1)", "jax.random.key(self.seed + 2)"),
    Sabotage("losses/lagrangian.py", "return end_dt, v(end, t)", "return end_dt, v(end, 0.98 * t)", (FMM,)),
)  # fmt: skip


def put_into(sabotage: Sabotage, tree: Path) -> None:
    """Raises ValueError when the line is not there, or is there twice: the code has moved on, and the row must."""
    path = tree / "flowcore" / sabotage.file
    text = path.read_text()
    if text.count(sabotage.old) != 1:
        raise ValueError(f"{sabotage.file} has {text.count(sabotage.old)} places {sabotage.old!r}, not one")
    path.write_text(text.replace(sabotage.old, sabotage.new))


def noticed(sabotage: Sabotage, tree: Path, check: bool) -> str | None:
    """By what; None when nothing does. The copy is whole again afterwards."""
    path = tree / "flowcore" / sabotage.file
    whole = path.read_text()
    put_into(sabotage, tree)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), str(tree / "ci")])}
    environment["XLA_FLAGS"] = (
        "--xla_cpu_use_fusion_emitters=false"  # as ci/test, which compiles in a third of the time
    )

    def fails(command: list[str], environment: dict[str, str]) -> bool:
        run = subprocess.run(
            [sys.executable, "-m", *command], cwd=tree, env=environment, capture_output=True, text=True
        )
        if run.returncode not in (0, 1):
            raise RuntimeError(
                f"{' '.join(command)} ended with {run.returncode}: {run.stdout[-300:]}{run.stderr[-300:]}"
            )
        return run.returncode == 1

    try:
        for notebook in sabotage.notebooks:
            pytest = ["pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "tests/test_fingerprints.py"]
            if fails([*pytest, "-k", f"[{notebook}]"], environment):
                return f"fingerprint of {notebook}"
        environment.pop("XLA_FLAGS")
        for notebook in sabotage.notebooks if check else ():
            if fails(["commands", "check", notebook], environment):
                return f"check of {notebook}"
        return None
    finally:
        path.write_text(whole)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only sabotages that hold one of these words; default: all")
    parser.add_argument("--check", action="store_true", help="run what the fingerprints do not notice again")
    arguments = parser.parse_args()
    chosen = [each for each in SABOTAGES if not arguments.words or any(word in str(each) for word in arguments.words)]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tree / name)
        for sabotage in chosen:
            by = noticed(sabotage, tree, arguments.check)
            print(f"{by or 'NOT NOTICED'}  {sabotage}", flush=True)
            unnoticed += by is None
    print(f"{len(chosen)} sabotages, {len(chosen) - unnoticed} noticed, {unnoticed} not")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
