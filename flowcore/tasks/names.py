"""Tasks by name, as a parameter of a notebook asks for one."""

import functools
from collections.abc import Callable

from flowcore.networks import Choices
from flowcore.tasks.garments import garments, garments_784
from flowcore.tasks.images import images
from flowcore.tasks.ring import ring
from flowcore.tasks.task import Task
from flowcore.tasks.teachers import DENOISER, Classifier

LARGE = {  # for an accelerator
    "denoiser": DENOISER.replace(network="unet_bfloat16", width=64, depth=2, steps=20_000, rate=5e-4),
    "classifier": Classifier(convolutions=(32, 64), steps=4000),
    "count": 4096,
}
TINY = {  # the same code with everything as small as it may be, to try it anywhere: its numbers mean nothing
    "denoiser": DENOISER.replace(width=16, depth=1, steps=2, batch=8),
    "classifier": Classifier(convolutions=(4, 4), width=16, steps=20),
    "count": 256,
    "rows": "[:512]",
}

TASKS: dict[str, Callable[..., Task]] = Choices(
    garments=garments,
    garments_16=functools.partial(garments, dim=16),
    garments_64=functools.partial(garments, dim=64),
    garments_784=garments_784,
    # the dial: all variances of the components times this, the means where they are; below 1 the paths bend more
    garments_sharp=functools.partial(garments, sharpness=1 / 4),
    garments_sharper=functools.partial(garments, sharpness=1 / 16),
    ring=ring,
    mixture=ring,  # as it was named before there were others
    digits=functools.partial(images, name="digits"),  # 8x8, 1,797 of them
    fashion_mnist=functools.partial(images, name="fashion_mnist", **LARGE),  # 28x28
    cifar10=functools.partial(images, name="cifar10", **LARGE),  # 32x32 in colour
    tiny_fashion_mnist=functools.partial(images, name="fashion_mnist", **TINY),
    tiny_cifar10=functools.partial(images, name="cifar10", **TINY),
)
