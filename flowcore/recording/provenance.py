"""Where and with what a record is made."""

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path


def provenance() -> dict:
    """Where and with what a record is made, for its `recorded` entry."""
    import jax

    packages = ("jax", "equinox", "optax", "diffrax", "numpy")
    return {
        "date": datetime.date.today().isoformat(),
        "device": _device(jax.devices()[0]),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def _device(device) -> str:
    if device.platform != "cpu":
        return f"{device.platform} ({device.device_kind})"
    cpus = Path("/proc/cpuinfo")  # `platform.processor()` is empty on Linux
    model = re.search(r"model name\s*:\s*(.+)", cpus.read_text()) if cpus.exists() else None
    return f"cpu ({model[1] if model else platform.machine()}, {os.cpu_count()} cores)"
