"""Flow maps, proven side by side. This file is the index: the whole public surface, imported when it is first used.

    path -> calculus, maps -> losses -> objectives -> methods -> training -> sample, metrics -> recording

Modules are part of the surface too, by their last name: `flowcore.times.ordered`, `flowcore.record.check`.
"""

import importlib

MODULES = (
    "flowcore.calculus",
    "flowcore.data",
    "flowcore.exact",
    "flowcore.losses",
    "flowcore.maps",
    "flowcore.methods",
    "flowcore.metrics",
    "flowcore.networks",
    "flowcore.networks.attention",
    "flowcore.objectives",
    "flowcore.objectives.cost",
    "flowcore.objectives.guidance",
    "flowcore.objectives.schedules",
    "flowcore.objectives.terms",
    "flowcore.objectives.times",
    "flowcore.path",
    "flowcore.recording",
    "flowcore.recording.landscape",
    "flowcore.recording.plots",
    "flowcore.recording.record",
    "flowcore.sample",
    "flowcore.tasks",
    "flowcore.tasks.rulers",
    "flowcore.tasks.teachers",
    "flowcore.training",
    "flowcore.training.checkpoints",
)
NAMES = {
    "flowcore.maps": (
        "AbstractFlowMap",
        "AverageVelocityMap",
        "ConditionedMap",
        "DenoisedMap",
        "EdmHeunMap",
        "EndpointMap",
        "GuidedMap",
        "HeunMap",
        "OdeMap",
        "RepeatedMap",
        "TangentMap",
        "WithAuxiliary",
    ),
    "flowcore.exact": (
        "checkerboard",
        "GaussianMap",
        "GaussianMixtureMap",
        "MixtureMap",
        "ring",
        "SubspaceMap",
    ),
    "flowcore.losses.diagonal": ("flow_matching",),
    "flowcore.losses.lagrangian": (
        "ayf_lmd",
        "free_flow",
        "free_flow_auxiliary",
        "lmd",
        "lsd",
        "pid",
    ),
    "flowcore.losses.eulerian": (
        "ayf_emd",
        "ct",
        "ctm",
        "emd",
        "esd",
        "facm",
        "improved_mean_flow",
        "mean_flow",
        "soflow",
    ),
    "flowcore.losses.compositional": (
        "fmm",
        "fmm_inverse",
        "psd",
    ),
    "flowcore.losses.distances": (
        "adaptive",
        "cauchy",
        "directed",
        "per_entry",
        "perceptual",
        "pseudo_huber",
        "squared",
    ),
    "flowcore.objectives.context": (
        "conditional",
        "from_noise",
        "model_velocity",
        "on_path",
        "self_target",
        "self_velocity",
        "teacher_target",
        "teacher_velocity",
    ),
    "flowcore.objectives.terms": (
        "Objective",
        "Term",
    ),
    "flowcore.methods": (
        "Method",
        "method",
        "METHODS",
        "objective",
    ),
    "flowcore.networks": (
        "DiT",
        "NETWORKS",
        "ResidualMLP",
        "UNet",
    ),
    "flowcore.training": (
        "fit",
        "Recipe",
    ),
}
EXTRAS = {  # what must be installed besides the core, for modules that the core does without
    "flowcore.data.reading": "data",
    "flowcore.recording.plots": "notebooks",
    "flowcore.training.checkpoints": "checkpoints",
}
INDEX = {name: module for module, names in NAMES.items() for name in names}
INDEX |= {module.rpartition(".")[2]: module for module in MODULES}

__all__ = sorted(INDEX)


def __getattr__(name: str):
    if name not in INDEX:
        raise AttributeError(f"module 'flowcore' has no attribute {name!r}")
    module = brought(INDEX[name])
    value = module if INDEX[name] in MODULES and INDEX[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def brought(module: str):
    """The module, imported. Where a package that it needs is not installed, the error says which extra has it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if module not in EXTRAS or missing == "flowcore":
            raise
        remedy = f"pip install 'flowcore[{EXTRAS[module]}]'"
        raise ModuleNotFoundError(f"{module} needs {missing}: {remedy}", name=error.name) from None


def __dir__() -> list[str]:
    return __all__
