"""Flow maps that are known: the ground truth of every test, and the reference of every replication."""

from flowcore.exact.gaussian import GaussianMap
from flowcore.exact.mixture import GaussianMixtureMap, value
from flowcore.exact.plane import MixtureMap, checkerboard, ring
from flowcore.exact.subspace import SubspaceMap
