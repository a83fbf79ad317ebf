"""``upnas target show`` as a process: what is printed, and the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from upnas.measure.environment import available_cpus
from upnas.measure.targets import missing_for
from upnas.records import RUNTIME_DTYPES, Target

SPACE = """\
task: {type: segmentation}
model: {decoder: unet, encoder: {name: resnet18, depth: 2}}
stages: {default: {upsampler: [bilinear, nearest]}}
targets:
  - {name: phone, input: [3, 32, 48], dtype: bf16, memory_format: channels_last}
"""
TOO_MANY = available_cpus() + 1
UNSERVED = f"  - {{name: server, threads: {TOO_MANY}, batch: 2}}\n"


def show(*arguments: str, folder: Path, columns: int = 100) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "upnas", "target", "show", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": str(columns)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_targets_that_are_served(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(SPACE)
    done = show("my.yaml", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = (line for line in done.stdout.splitlines() if line.startswith(" phone"))
    assert " ".join(row.split()) == "phone cpu eager bfloat16 channels_last 1 1 3 x 32 x 48 served"
    assert "cannot be served" not in done.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_a_target_that_is_not_served(tmp_path: Path, columns: int) -> None:
    (tmp_path / "my.yaml").write_text(SPACE + UNSERVED)
    done = show("my.yaml", folder=tmp_path, columns=columns)
    assert (done.returncode, done.stderr) == (2, "")
    text = " ".join(done.stdout.split())
    assert "server cannot be served by this machine: - threads: " in text
    assert f"threads: {TOO_MANY}, but this process may use" in text
    assert "phone cannot be served" not in text
    assert max(map(len, done.stdout.splitlines())) <= columns


def test_targets_as_json(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(SPACE + UNSERVED)
    done = show("my.yaml", "--json", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    phone, server = json.loads(done.stdout)["targets"]
    assert phone["is_served"]
    assert phone["missing"] == []
    assert not server["is_served"]
    assert len(server["missing"]) == 1
    given = {name: value for name, value in server.items() if name in Target.model_fields}
    assert missing_for(Target.model_validate(given)) == tuple(server["missing"])


def test_a_space_with_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(SPACE + "  - {name: server, runtime: cuda_graph}\n")
    done = show("my.yaml", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "my.yaml:6: targets[1]: runtime 'cuda_graph' does not run on device 'cpu'" in done.stderr


def test_this_machine(tmp_path: Path) -> None:
    done = show(folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    machine, platform, versions, *rest = done.stdout.splitlines()
    assert machine.startswith("machine ")
    assert f"{available_cpus()} CPU" in machine
    assert platform.startswith("platform ")
    assert f"torch {torch.__version__.partition('+')[0]}" in versions
    rows = {tuple(line.split()[:2]) for line in rest if line.strip()}
    known = {(device, name) for name, dtypes in RUNTIME_DTYPES.items() for device in dtypes}
    assert known <= rows
    if not torch.cuda.is_available():
        assert done.stdout.count("device 'cuda' is") == 1  # and not with each runtime
        assert "as above" in done.stdout


def test_this_machine_as_json(tmp_path: Path) -> None:
    done = show("--json", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["environment"]["num_cpus"] == available_cpus()
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    runtimes = {(one["device"], one["runtime"]): one for one in found["runtimes"]}
    assert runtimes["cpu", "eager"]["dtypes"] == ["float32", "bfloat16", "float16"]
    assert runtimes["cpu", "eager"]["missing"] == {}
    for (device, name), one in runtimes.items():
        for dtype in RUNTIME_DTYPES[name][device]:
            target = Target(name="a", device=device, runtime=name, dtype=dtype)
            assert (dtype in one["dtypes"]) == (missing_for(target) == ())
            assert tuple(one["missing"].get(dtype, ())) == missing_for(target)
