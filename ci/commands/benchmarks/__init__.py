"""What things cost on this machine: time, memory, and what they are worth beside something else timed in the same run.

`ci/replicate bench` runs all of it, or what is named, and writes the table and the figure of README.md. Each function
named below is one measurement; it returns numbers, which may be nested by name. Here are only the names, so that a
wrong one is answered without JAX.
"""

NAMES = (
    "steps",
    "wide_steps",
    "overhead",
    "compilation",
    "dealing",
    "sampling",
    "attention",
    "utilisation",
    "scaling",
    "peers",
)
