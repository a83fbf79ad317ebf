from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from upnas.measure import fingerprint, sources
from upnas.measure.fingerprint import describe_fingerprint, machine_fingerprint
from upnas.measure.sources import candidate_digest, own_source
from upnas.records import Candidate, EncoderSpec, ModelSpec, StageChoice, Target
from upnas.upsamplers import CatalogueError, catalogue

CPU = Target(name="laptop")
UPSAMPLER = """
import torch.nn.functional as F
from upnas.upsamplers import Upsampler

class Mine(Upsampler):
    keeps_channels = True
    def __init__(self, channels, out_channels=None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
    def upsample(self, x, guide):
        return F.interpolate(x, size=self.upsampled_size(x))
    def macs_per_pixel(self):
        return 0
"""
CHANGED = UPSAMPLER.replace("return 0", "return 1")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def parts_with(monkeypatch: pytest.MonkeyPatch, target: Target, **variables: str) -> dict[str, str]:
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return describe_fingerprint(target)


# The machine


def test_parts_are_those_of_this_machine() -> None:
    parts = describe_fingerprint(CPU)
    assert parts["torch"] == torch.__version__
    assert parts["python"] == f"CPython {sys.version_info.major}.{sys.version_info.minor}"
    assert parts["system"].startswith("Linux ")
    assert {"package numpy", "package timm"} <= set(parts)
    assert not any(name.startswith("gpu") for name in parts)


def test_fingerprint_is_16_hex_digits_and_does_not_depend_on_the_targets_name_or_sizes() -> None:
    expected = machine_fingerprint(CPU)
    assert re.fullmatch(r"[0-9a-f]{16}", expected)
    other = Target(name="b", threads=2, batch=4, input=(1, 8, 8), dtype="bfloat16")
    assert machine_fingerprint(other) == expected


def test_names_neither_host_nor_user_nor_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    library = f"{Path.home()}/lib/libjemalloc.so:/opt/{platform.node()}/b.so"
    parts = parts_with(monkeypatch, CPU, MALLOC_CONF=library)
    assert parts["variable MALLOC_CONF"] == "libjemalloc.so:b.so"
    text = " ".join(parts.values())
    assert platform.node() not in text
    assert str(Path.home()) not in text
    if getpass.getuser() != "root":
        assert getpass.getuser() not in text


@pytest.mark.parametrize(
    "change",
    [{"model": "3"}, {"microcode": "0x2"}, {"flags": "fpu avx"}, {"model name": "Other"}],
    ids=str,
)
def test_another_processor_is_another_machine(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    info = {"model name": "CPU", "model": "2", "microcode": "0x1", "flags": "fpu avx avx2"}

    def pretend(fields: dict[str, str]) -> str:
        monkeypatch.setattr(fingerprint, "cpuinfo", lambda: fields)
        monkeypatch.setattr(fingerprint, "processor", lambda: fields["model name"])
        return machine_fingerprint(CPU)

    expected = pretend(info)
    assert pretend(info | {"cpu MHz": "1234", "flags": "avx2 smep avx"}) == expected
    assert pretend(info | change) != expected


def test_number_of_processors_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "available_cpus", lambda: 1)
    one = machine_fingerprint(CPU)
    monkeypatch.setattr(fingerprint, "available_cpus", lambda: 2)
    assert machine_fingerprint(CPU) != one


def test_patch_releases_of_system_and_python_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(kernel: str, python: str) -> str:
        monkeypatch.setattr(platform, "release", lambda: kernel)
        monkeypatch.setattr(platform, "python_version", lambda: python)
        return machine_fingerprint(CPU)

    expected = pretend("6.8.0-45-generic", "3.12.4")
    assert pretend("6.8.1-99-generic", "3.12.9") == expected
    assert pretend("6.11.0-45-generic", "3.12.4") != expected
    assert pretend("6.8.0-45-generic", "3.13.4") != expected


# Variables


@pytest.mark.parametrize(
    "name",
    ["OMP_WAIT_POLICY", "OPENBLAS_CORETYPE", "MKL_CBWR", "KMP_BLOCKTIME", "ATEN_CPU_CAPABILITY",
     "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "GOMP_SPINCOUNT", "MALLOC_ARENA_MAX"],
)  # fmt: skip
def test_variables_that_change_speed_count(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    one, other = (parts_with(monkeypatch, CPU, **{name: value}) for value in ("one", "other"))
    assert one[f"variable {name}"] == "one"
    assert one != other


@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "HOME", "KMP_DUPLICATE_LIB_OK", "PATH"]
)
def test_other_variables_do_not_count(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert parts_with(monkeypatch, CPU, **{name: "3"}) == describe_fingerprint(CPU)


def test_compiled_targets_count_the_compiler_and_its_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = CPU.model_copy(update={"runtime": "compile"})
    variables = {"TORCHINDUCTOR_FREEZING": "1", "TORCHINDUCTOR_CACHE_DIR": "/tmp/me"}
    parts = parts_with(monkeypatch, compiled, **variables)
    assert parts["variable TORCHINDUCTOR_FREEZING"] == "1"
    assert "variable TORCHINDUCTOR_CACHE_DIR" not in parts  # torch sets it itself
    assert parts["compiler"]
    assert parts_with(monkeypatch, CPU, **variables) == describe_fingerprint(CPU)


def test_a_program_that_is_missing_is_unknown() -> None:
    assert fingerprint._first_line("no-such-compiler-at-all", "--version") == "unknown"
    assert fingerprint._first_line(sys.executable, "--version").startswith("Python 3.")


PROGRAM = """
import sys
for name in sys.argv[1:]:
    __import__(name)
from upnas.measure.fingerprint import machine_fingerprint
from upnas.records import Target
print(machine_fingerprint(Target(name="x")))
"""


def test_fingerprint_is_the_same_in_every_process_whatever_was_imported_before() -> None:
    for threads, imported in (("1", ()), ("2", ("scipy", "upnas.training"))):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *imported],
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == machine_fingerprint(CPU)


# Packages and GPUs


def test_packages_of_the_runtime_count_under_all_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"onnxruntime-gpu": "1.22", "onnx": "1.18", "onnxscript": "0.7", "numpy": "2.0"}
    runtime = SimpleNamespace(packages=("onnxruntime",))
    monkeypatch.setattr(fingerprint, "_installed", lambda: installed)
    monkeypatch.setattr("upnas.measure.runtimes.RUNTIMES", {"onnxruntime": runtime})
    served = CPU.model_copy(update={"runtime": "onnxruntime"})
    packages = {k: v for k, v in describe_fingerprint(served).items() if k.startswith("package")}
    assert packages == {"package onnxruntime-gpu": "1.22", "package numpy": "2.0"}


def test_gpu_and_driver_count_for_cuda_targets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="GPU A", multi_processor_count=132, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(fingerprint, "_driver", lambda: "550.54.15")
    cuda, cpu = CPU.model_copy(update={"device": "cuda"}), machine_fingerprint(CPU)
    before = describe_fingerprint(cuda)
    assert before["gpu"] == "GPU A, 132 multiprocessors, 80 GiB"
    assert before["gpu driver"] == "550.54.15"
    gpu.name = "GPU B"
    assert describe_fingerprint(cuda) != before
    assert machine_fingerprint(CPU) == cpu
    allocator = parts_with(monkeypatch, cuda, CUDA_LAUNCH_BLOCKING="1", CUDA_VISIBLE_DEVICES="1")
    assert allocator["variable CUDA_LAUNCH_BLOCKING"] == "1"
    assert "variable CUDA_VISIBLE_DEVICES" not in allocator


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (b)",
    ],
)
def test_driver_version_is_that_of_the_kernel_module(tmp_path: Path, line: str) -> None:
    write(tmp_path / "version", f"{line}\nGCC version: gcc version 12.3.0\n")
    assert fingerprint._driver(tmp_path / "version") == "550.54.15"


def test_driver_version_without_a_kernel_module_comes_from_its_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fingerprint._driver(tmp_path / "none, no tool") == "unknown"
    write(tmp_path / "nvidia-smi", "#!/bin/sh\necho 551.00\necho 551.00\n")
    (tmp_path / "nvidia-smi").chmod(0o700)
    assert fingerprint._driver(tmp_path / "none") == "551.00"


# Our own source


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("upsamplers/functional/deep.py", True),
        ("models/unet.py", True),
        ("measure/timing/clocks.py", True),
        ("report/html.py", False),
        ("measure/notes.txt", False),
    ],
)
def test_source_of_networks_and_instrument_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, counts: bool
) -> None:
    monkeypatch.setattr(sources, "_HERE", tmp_path)
    write(tmp_path / path, "a = 1\n")
    before = own_source.__wrapped__()
    write(tmp_path / path, "a = 2\n")
    assert (own_source.__wrapped__() != before) is counts


def test_moving_text_from_one_source_file_to_another_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_HERE", tmp_path)
    write(tmp_path / "models/a.py", "one")
    write(tmp_path / "models/b.py", "")
    before = own_source.__wrapped__()
    write(tmp_path / "models/a.py", "")
    write(tmp_path / "models/b.py", "one")
    assert own_source.__wrapped__() != before


def test_an_editors_lock_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_HERE", tmp_path)
    write(tmp_path / "models/a.py", "one")
    before = own_source.__wrapped__()
    (tmp_path / "models/.#a.py").symlink_to("me@host.123")
    assert own_source.__wrapped__() == before


def test_source_is_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine_fingerprint(CPU)
    monkeypatch.setattr(fingerprint, "own_source", lambda: "edited")
    assert machine_fingerprint(CPU) != before


# Third-party upsamplers


def candidate(upsampler: str, **parameters: str | int | tuple[str, ...]) -> Candidate:
    model = ModelSpec(decoder="unet", encoder=EncoderSpec(name="resnet18"))
    choice = StageChoice(upsampler=upsampler, parameters=tuple(parameters.items()))
    return Candidate(model=model, stages=(StageChoice(upsampler="bilinear"), choice))


def digest_in_new_process(of: Candidate) -> str:
    """What a process that has loaded nothing yet says."""
    for cache in (sources._foreign_source, catalogue._third_party, catalogue.parameters_model):
        cache.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "some_package"]:
        del sys.modules[name]
    return candidate_digest(of)


def test_own_upsamplers_add_nothing_to_the_key() -> None:
    assert candidate_digest(candidate("carafe")) == candidate("carafe").key
    arms = candidate("selector", arms=("bilinear", "transposed"))
    assert candidate_digest(arms) == arms.key


def test_file_of_an_upsampler_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py", UPSAMPLER)
    write(tmp_path / "neighbour.py", "a = 1\n")
    of = candidate("mine.py:Mine")
    before = digest_in_new_process(of)
    assert re.fullmatch(f"{of.key}[0-9a-f]{{12}}", before)
    write(tmp_path / "neighbour.py", "a = 2\n")
    assert digest_in_new_process(of) == before
    write(tmp_path / "mine.py", CHANGED)
    assert candidate_digest(of) == before  # this process runs what it has loaded
    assert digest_in_new_process(of) != before


def test_folder_of_the_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for name in ("here", "there"):
        write(tmp_path / name / "mine.py", UPSAMPLER)
        monkeypatch.chdir(tmp_path / name)
        digests.append(digest_in_new_process(candidate("mine.py:Mine")))
    assert digests[0] == digests[1]


def test_whole_package_of_an_upsampler_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "some_package"
    for path in ("__init__.py", "kernels.py", "deep/__init__.py"):
        write(package / path, "")
    write(package / "deep/ops.py", UPSAMPLER)
    of = candidate("some_package.deep.ops:Mine")
    before = digest_in_new_process(of)
    write(package / "kernels.py", "a = 2\n")
    assert digest_in_new_process(of) != before


def test_base_classes_from_elsewhere_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "some_package/__init__.py", UPSAMPLER)
    write(tmp_path / "mine.py", "from some_package import Mine\nclass Heir(Mine): pass\n")
    of = candidate("mine.py:Heir")
    before = digest_in_new_process(of)
    write(tmp_path / "some_package/__init__.py", CHANGED)
    assert digest_in_new_process(of) != before


def test_arms_of_a_selector_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py", UPSAMPLER)
    of = candidate("selector", arms=("bilinear", "mine.py:Mine"))
    before = digest_in_new_process(of)
    write(tmp_path / "mine.py", CHANGED)
    assert digest_in_new_process(of) != before != of.key


def test_words_that_only_look_like_upsamplers_add_nothing() -> None:
    of = candidate("carafe", mode="no_such_module:Thing")
    assert candidate_digest(of) == of.key


def test_installed_upsamplers_count_by_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "some_package/__init__.py", UPSAMPLER + UPSAMPLER.replace("Mine", "Other"))
    digests = []
    for name in ("Mine", "Other"):
        entry = EntryPoint("mine", f"some_package:{name}", catalogue.GROUP)
        monkeypatch.setattr(catalogue, "_installed", lambda entry=entry: {"mine": entry})
        digests.append(digest_in_new_process(candidate("mine")))
    assert digests[0] != digests[1]


def test_code_that_cannot_be_read_never_meets_an_old_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py", UPSAMPLER)
    of = candidate("mine.py:Mine")
    known = digest_in_new_process(of)
    (tmp_path / "mine.py").unlink()  # the class stays loaded
    sources._foreign_source.cache_clear()
    one = candidate_digest(of)
    sources._foreign_source.cache_clear()
    assert len({known, one, candidate_digest(of)}) == 3


def test_unknown_upsamplers_are_refused() -> None:
    with pytest.raises(CatalogueError, match="bilinearr"):
        candidate_digest(candidate("bilinearr"))
