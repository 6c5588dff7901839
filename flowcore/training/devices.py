"""What a run is spread over: several devices, of one host or of many, which share the batch and maybe the state.

The program is the same, of the same whole batch: only where its arrays lie is said, and XLA divides the work. So the
losses are those of one device, up to the order of sums. Verified on CPU devices only (eight of one process, and two
processes of one); no accelerator was at hand.
"""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROWS = "rows"  # the one axis of the mesh: what is split is split along it


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a run is spread over: the rows of every batch are split over the mesh, and each leaf of the state lies as
    `layout(its shape, number of devices)` says. Made by `data_parallel` or `fully_sharded`."""

    mesh: Mesh
    layout: Callable[[tuple[int, ...], int], PartitionSpec]

    def place(self, state):
        """The state where it belongs; with several seeds each of them is laid out as one alone."""
        seeds = state.key.ndim

        def sharding(leaf):
            layout = self.layout(leaf.shape[seeds:], self.mesh.size)
            return NamedSharding(self.mesh, PartitionSpec(*[None] * seeds, *layout))

        return move(state, sharding)

    def replicate(self, tree):
        """Every array whole on every device."""
        return move(tree, lambda leaf: NamedSharding(self.mesh, PartitionSpec()))

    def split(self, examples):
        """Inside jit: a batch, split along its rows. Raises ValueError if the devices cannot share them evenly."""
        return eqx.filter_shard(examples, self.along(0, len(jax.tree.leaves(examples)[0])))

    def assemble(self, drawn):
        """What each process has drawn, (steps, its rows), as one array of all rows. Raises as `split` does."""

        def whole(local):
            hosts = len({device.process_index for device in self.mesh.devices.flat})
            return jax.make_array_from_process_local_data(self.along(1, hosts * local.shape[1]), local)

        return jax.tree.map(whole, drawn)

    def along(self, axis: int, rows: int) -> NamedSharding:
        """Split along that axis, which has so many rows."""
        if rows % self.mesh.size:
            raise ValueError(f"a batch of {rows} rows cannot be split evenly over {self.mesh.size} devices")
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, ROWS))


def move(tree, sharding: Callable):
    """The tree with every array where its `sharding` says."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)  # jit would hand back an equal source, which draws from another place
    return eqx.combine(jax.tree.unflatten(structure, constrain(leaves, [sharding(leaf) for leaf in leaves])), rest)


@eqx.filter_jit
def constrain(arrays: list, shardings: list) -> list:
    """All in one program: hosts that move arrays one by one may wait for each other for ever."""
    return jax.lax.with_sharding_constraint(arrays, shardings)


def data_parallel(devices: Sequence[jax.Device] | None = None) -> Devices:
    """Every device holds the whole state and its share of the batch. By default all devices of all processes."""
    return Devices(one_axis(devices), replicated_layout)


def fully_sharded(devices: Sequence[jax.Device] | None = None) -> Devices:
    """Every device holds its share of the batch and of the state too: of parameters, averages and moments.

    For models that one device cannot hold; XLA gathers the weights where they are used.
    Reference: Rajbhandari et al. 2020, "ZeRO: memory optimizations toward training trillion parameter models".
    """
    return Devices(one_axis(devices), sharded_layout)


def one_axis(devices: Sequence[jax.Device] | None) -> Mesh:
    """A mesh of one axis, the devices of a process side by side, as the rows that it draws are. Raises ValueError for
    no devices."""
    chosen = sorted(jax.devices() if devices is None else devices, key=lambda device: device.process_index)
    if not chosen:
        raise ValueError("devices must be at least one, not none: leave them out for all that there are")
    return Mesh(np.array(chosen), (ROWS,))


def replicated_layout(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """A copy on every device."""
    return PartitionSpec()


def sharded_layout(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """Split along the largest axis that the devices share evenly; a copy on each if there is none."""
    even = [axis for axis, size in enumerate(shape) if size % devices == 0]
    axis = max(even, key=shape.__getitem__, default=None)
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, ROWS)
