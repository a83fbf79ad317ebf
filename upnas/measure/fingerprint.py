"""What makes two measurements of one candidate comparable, as a short digest.

Two processes with one fingerprint have the same kind of processor or GPU, the same versions of
what computes, the same variables that steer it, and the same source of the networks and of the
instrument: a cost that one of them measured is good for the other. Hosts of one kind agree.

Not in it: what changes within a day (load, clock frequency, governor, temperature), because pairs
with the reference cancel most of it and the record says the rest; and the numbers of threads,
because measurements set them. Neither host, user nor folder is named.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from upnas.measure.environment import available_cpus, cpuinfo, processor
from upnas.measure.sources import own_source, short_digest
from upnas.records import Target

_PACKAGES: Final[tuple[str, ...]] = ("numpy", "timm", "triton")

# What tells processors of one model name apart; x86, then ARM.
_PROCESSOR_FIELDS: Final = (
    "vendor_id", "cpu family", "model", "stepping", "microcode",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision",
)  # fmt: skip
# Of the many flags, those of vector and matrix arithmetic: x86, then ARM.
_FAST: Final = re.compile(r"^(s?sse|avx|fma|f16c|bmi|amx|gfni|vaes|asimd|sve|sme(?!p)|i8mm|bf16)")

_VARIABLES: Final = (
    "ATEN_", "DNNL_", "GLIBC_TUNABLES", "GOMP_", "KMP_", "LD_PRELOAD", "MALLOC_", "MKL_", "OMP_",
    "ONEDNN_", "OPENBLAS_",
)  # fmt: skip
_CUDA_VARIABLES: Final = (
    "CUBLAS_", "CUDA_LAUNCH_BLOCKING", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDNN_", "NVIDIA_TF32",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_ALLOW_TF32", "TORCH_CUDNN_",
)  # fmt: skip
_COMPILE_VARIABLES: Final = ("TORCHINDUCTOR_",)
# Threads are set by whoever measures; the others are set by libraries when they are imported.
_NO_MATTER: Final = frozenset(
    {
        "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_CACHE_DIR",
    }
)  # fmt: skip


def machine_fingerprint(target: Target) -> str:
    """Return 16 hex digits of everything that :func:`describe_fingerprint` says.

    Args:
        target: One that this machine serves; device and runtime are read.
    """
    parts = json.dumps(describe_fingerprint(target), sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def describe_fingerprint(target: Target) -> dict[str, str]:
    """Return the parts of the fingerprint, so that a person can see why two differ.

    Takes some milliseconds. Source files and compilers are read once per process.

    Args:
        target: One that this machine serves; device and runtime are read.
    """
    # Here, so that a look at the cache does not load torch.
    import torch

    from upnas.measure.runtimes import RUNTIMES

    runtime = RUNTIMES.get(target.runtime)
    info = cpuinfo()
    flags = (info.get("flags") or info.get("Features") or "").split()
    parts = {
        "processor": ", ".join(
            [processor(), *(f"{name} {info[name]}" for name in _PROCESSOR_FIELDS if name in info)]
        ),
        "instructions": " ".join(sorted(filter(_FAST.match, flags))),
        "cpus": str(available_cpus()),
        "system": f"{platform.system()} {_minor(platform.release())} {platform.machine()}",
        "python": f"{platform.python_implementation()} {_minor(platform.python_version())}",
        "torch": torch.__version__,
        "torch build": short_digest(torch.__config__.show()),  # its BLAS, compiler and flags
        "upnas source": own_source(),
    }
    parts |= _packages(() if runtime is None else runtime.packages)
    variables = [*_VARIABLES]
    if target.device == "cuda":
        parts |= _gpu()
        variables += _CUDA_VARIABLES
    if target.runtime == "compile":
        parts["compiler"] = _compiler()
        variables += _COMPILE_VARIABLES
    return parts | _environment(tuple(variables))


def _minor(version: str) -> str:
    """6.8 of 6.8.0-45-generic: patches are not expected to change speed."""
    return ".".join(re.findall(r"\d+", version)[:2])


def _packages(wanted: Iterable[str]) -> dict[str, str]:
    """Versions of what is installed, also by a longer name: onnxruntime-gpu, tensorrt-cu12."""
    installed = _installed()
    names = {name for name in _PACKAGES if name in installed}
    for package in wanted:
        stem = _normalised(package)
        names |= {name for name in installed if name == stem or name.startswith(f"{stem}-")}
    return {f"package {name}": installed[name] for name in sorted(names)}


@functools.cache
def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if distribution.name:  # None where its metadata are damaged
            # The first one on the path is the one that is imported.
            found.setdefault(_normalised(distribution.name), distribution.version)
    return found


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _environment(prefixes: tuple[str, ...]) -> dict[str, str]:
    """Variables that steer kernels, libraries and the allocator; of paths, the last part only."""
    return {
        f"variable {name}": re.sub(r"[^\s:;,=]*/", "", value)
        for name, value in sorted(os.environ.items())
        if name.startswith(prefixes) and name not in _NO_MATTER
    }


def _gpu() -> dict[str, str]:
    import torch

    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": f"{gpu.name}, {gpu.multi_processor_count} multiprocessors, "
        f"{gpu.total_memory / 2**30:.0f} GiB",
        "gpu driver": _driver(),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


@functools.cache
def _driver(version: Path = Path("/proc/driver/nvidia/version")) -> str:
    if version.is_file() and (found := re.search(r"\b\d+\.\d+(\.\d+)?\b", version.read_text())):
        return found[0]
    return _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


@functools.cache
def _compiler() -> str:
    """What torch.compile builds kernels for processors with."""
    return _first_line(os.environ.get("CXX", "g++"), "--version")


def _first_line(program: str, *arguments: str) -> str:
    """What a program prints first; ``unknown`` where it is not installed."""
    if (path := shutil.which(program)) is None:
        return "unknown"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0] or "unknown"
