"""Another implementation, for `ci/replicate bench peers`: `rectified-flow-pytorch`, eager, in its own environment.

Answers one line of JSON per line of standard input, so that who asks can take turns with it:

    {"step": "MeanFlow", "width": 128, "depth": 2, "steps": 50}    -> seconds of one training step
    {"stationary": "MeanFlow", "batches": 200}                     -> largest |z| of the gradient at the exact map, ...

The network is our ResidualMLP written in torch; nothing of flowcore is read here. A step is loss, gradient, clipping
and Adam on points drawn in it; ours has a falling rate and a moving average on top.
"""

import json
import math
import random
import sys
import time
import types
from unittest.mock import MagicMock

import torch
from torch import nn

# The package's __init__, and the trainers of some modules, import what losses do not need.
package = types.ModuleType("rectified_flow_pytorch")
package.__path__ = [f"{path}/rectified_flow_pytorch" for path in sys.path]
sys.modules["rectified_flow_pytorch"] = package
absent = ["accelerate", "torchvision", "torchvision.utils", "ema_pytorch", "tqdm"]
absent += ["rectified_flow_pytorch.rectified_flow"]
sys.modules.update({name: MagicMock() for name in absent})

from rectified_flow_pytorch.lsd_flow import LsdFlow  # noqa: E402
from rectified_flow_pytorch.mean_flow import MeanFlow  # noqa: E402
from rectified_flow_pytorch.soflow import SoFlow  # noqa: E402
from rectified_flow_pytorch.split_mean_flow import SplitMeanFlow  # noqa: E402

for name in absent:  # torch, too, looks for some of them
    del sys.modules[name]

BATCH = 512
MEAN, STD = torch.tensor([0.3, -0.5]), 0.6  # of the Gaussian whose map is known


def at_its_end(model):
    """SoFlow at the end of its schedule, where the step of its equality is shortest."""
    flow = SoFlow(model)
    flow.step = flow.r_total_steps
    return flow


# name -> (the loss, what it tells its network beside the point, as (source, target) with noise at 1)
LOSSES = {
    "flow matching": (lambda model: MeanFlow(model, prob_default_flow_obj=1.0), "from gap"),
    "MeanFlow": (lambda model: MeanFlow(model, prob_default_flow_obj=0.0), "from gap"),
    "SplitMeanFlow": (SplitMeanFlow, "from gap reversed"),
    "SplitMeanFlow, jumps alone": (lambda model: SplitMeanFlow(model, prob_default_flow_obj=0.0), "from gap reversed"),
    "SoFlow": (SoFlow, "from to"),
    "SoFlow, last step": (at_its_end, "from to"),
    "LSD": (LsdFlow, "from to reversed"),
}


class ResidualMLP(nn.Module):
    """Our network: the waves of both times shift `depth` residual blocks of `width` units."""

    def __init__(self, size: int, width: int, depth: int, octaves: int = 3):
        super().__init__()
        self.into, self.out = nn.Linear(size, width), nn.Linear(width, size)
        self.times = nn.Sequential(nn.Linear(4 * octaves, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.register_buffer("turns", math.pi / 2 * 2.0 ** torch.arange(octaves))
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)

    def forward(self, x, first, s):
        phase = (self.turns[:, None] * torch.stack([first, s], dim=-1)[:, None]).flatten(1)
        told = self.times(torch.cat([phase.sin(), phase.cos()], dim=-1))
        hidden = self.into(x)
        for block in self.blocks:
            hidden = hidden + block(nn.functional.silu(hidden + told))
        return self.out(nn.functional.silu(hidden))


class ExactMap(nn.Module):
    """`sign` times the average velocity of the Gaussian data, in closed form, plus `fields` times a parameter that is
    0: its gradient must be 0 on average where `sign` is 1."""

    def __init__(self, told: str, sign: float):
        super().__init__()
        self.told, self.sign = told, sign
        self.amount = nn.Parameter(torch.zeros(4))

    def spread(self, t):
        return ((1 - t) ** 2 * STD**2 + t**2).sqrt()

    def forward(self, x, first, s):
        time, other = first[:, None], s[:, None]
        if "gap" in self.told:
            other = time - other
        reverse = "reversed" in self.told  # noise at 0: times count from the other end, velocities change sign
        source, target = (1 - time, 1 - other) if reverse else (time, other)
        slope = (source + target - (2 - source - target) * STD**2) / (self.spread(source) + self.spread(target))
        velocity = (x - (1 - source) * MEAN) * slope / self.spread(source) - MEAN
        gap = source - target
        fields = torch.stack([torch.ones_like(x), x, gap.expand_as(x), gap * x])
        return (-self.sign if reverse else self.sign) * velocity + torch.tensordot(self.amount, fields, dims=1)


def ring(count: int):
    """Eight Gaussians on a circle, (count, 2)."""
    angle = 2 * math.pi / 8 * torch.randint(8, (count,))
    return 1.4 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.12 * torch.randn(count, 2)


trainers = {}


def step(name: str, width: int, depth: int, steps: int) -> float:
    """Seconds of one step, the mean of `steps`; the same network goes on from call to call."""
    random.seed(0)  # for the dice that a loss throws for a whole batch
    if (name, width, depth) not in trainers:
        torch.manual_seed(0)
        loss = LOSSES[name][0](ResidualMLP(2, width, depth))
        trainers[name, width, depth] = loss, torch.optim.Adam(loss.parameters(), 1e-3)
    loss, optimiser = trainers[name, width, depth]
    start = time.perf_counter()
    for _ in range(steps):
        optimiser.zero_grad()
        loss(ring(BATCH)).backward()
        nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
        optimiser.step()
    return (time.perf_counter() - start) / steps


def stationary(name: str, batches: int) -> dict[str, float]:
    """Largest |mean gradient / standard error| over the fields, at the exact map and at that of the wrong sign."""
    torch.set_default_dtype(torch.float64)
    found = {"exact": z_score(name, 1.0, batches), "wrong sign": z_score(name, -1.0, batches)}
    torch.set_default_dtype(torch.float32)
    return found


def z_score(name: str, sign: float, batches: int) -> float:
    torch.manual_seed(1)
    random.seed(1)  # where a loss throws its dice for the whole batch
    make, told = LOSSES[name]
    exact = ExactMap(told, sign)
    loss, gradients = make(exact), []
    for _ in range(batches):
        (gradient,) = torch.autograd.grad(loss(MEAN + STD * torch.randn(BATCH, 2)), exact.amount)
        gradients.append(gradient)
    gradients = torch.stack(gradients)
    rounding = 1e-12  # where both sides are equal example by example, there is no scatter to divide by
    scatter = gradients.std(dim=0) / batches**0.5 + rounding
    return (gradients.mean(dim=0).abs() / scatter).max().item()


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        answer = step(asked.pop("step"), **asked) if "step" in asked else stationary(asked.pop("stationary"), **asked)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
