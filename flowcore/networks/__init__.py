"""Backbones `net(x, s, t[, condition]) -> like x`, for one example. All start at zero output: V = 0 before training."""

from flowcore.networks.layers import Condition, Linear, gap_only, source_and_gap, source_and_level
from flowcore.networks.mlp import ResidualMLP
from flowcore.networks.names import NETWORKS, Choices
from flowcore.networks.precision import in_bfloat16
from flowcore.networks.transformer import DiT
from flowcore.networks.unet import UNet
