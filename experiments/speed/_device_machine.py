"""What the figures of a device run depend on: devices, versions, host."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from typing import Any

import jax

PACKAGES = (
    *("minibatch_jax", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "optax", "flax", "numpy", "scipy"),
    *("ott-jax", "POT", "torch", "pytorch-metric-learning", "lapjv"),
)


def describe() -> dict[str, str]:
    """Name -> text: kind and number of devices, versions, driver, host. Starts the backend."""
    devices = jax.devices()
    found = {
        "device": devices[0].device_kind,
        "devices": str(len(devices)),
        "platform": devices[0].platform,
        "runtime": " ".join(str(devices[0].client.platform_version).split()),
        "python": platform.python_version(),
        "host": f"{os.cpu_count()} CPUs, {platform.machine()}, load average {_load()}",
    }
    for package in PACKAGES:
        version = _version(package)
        if version is not None:
            found[package] = version
    driver = _output("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    commit = _output("git", "rev-parse", "--short", "HEAD")
    return found | ({"nvidia-smi": driver} if driver else {}) | ({"commit": commit} if commit else {})


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """What a program prints, on one line; empty if it is not here or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done: Any = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return "; ".join(done.stdout.splitlines()) if done.returncode == 0 else ""


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
