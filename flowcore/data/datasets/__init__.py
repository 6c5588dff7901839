"""Our data sets: `BUILDERS` maps the name that `flowcore.data.load` is given to the TFDS builder that prepares it.

To add one, write a builder (`originals` says what it takes) and put it into this dictionary.
"""

from flowcore.data.datasets.cifar10 import FlowCifar10
from flowcore.data.datasets.digits import FlowDigits
from flowcore.data.datasets.mnist import FlowFashionMnist, FlowMnist
from flowcore.data.datasets.originals import DataError as DataError
from flowcore.data.datasets.originals import ImageBuilder

BUILDERS: dict[str, type[ImageBuilder]] = {
    "digits": FlowDigits,
    "mnist": FlowMnist,
    "fashion_mnist": FlowFashionMnist,
    "cifar10": FlowCifar10,
}
