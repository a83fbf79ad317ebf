"""``upnas bench measure`` as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from upnas.bench.instrument.markdown import instrument_markdown
from upnas.bench.instrument.records import InstrumentBenchmark

SPACE = """\
name: tiny
task: {type: segmentation, data: {type: filaments}, crop: 32}
model: {decoder: unet, encoder: {name: mobilenetv3_small_050, depth: 2}}
stages: {default: {upsampler: [nearest, bilinear, transposed]}}
targets: [{name: small, input: [3, 32, 32]}]
"""


def test_two_parts_of_a_quick_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    command = ["bench", "measure", "--space", "tiny.yaml", "--quick"]
    command += ["--part", "memory", "--part", "prediction"]
    done = subprocess.run(
        [sys.executable, "-m", "upnas", *command, "--out", "new/folder"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stem = tmp_path / "new" / "folder" / "measure-cpu"
    found = InstrumentBenchmark.model_validate_json(stem.with_suffix(".json").read_text())
    assert found.command == f"upnas {' '.join(command)}"
    assert (found.space, found.target.name) == ("tiny.yaml", "small")

    keys = [candidate.key for candidate in found.candidates]
    assert len(set(keys)) == len(keys) == 4
    for readings in (found.first, found.second):  # the second is measured in another order
        assert [reading.key for reading in readings] == keys
        assert all(one.ratio_low <= one.ratio <= one.ratio_high for one in readings)
    ratios = [b.latency_ms / a.latency_ms for a, b in zip(found.first, found.second, strict=True)]
    assert found.repeatability.max_difference == max(abs(ratio - 1) for ratio in ratios)
    assert {reading.key for reading in found.effort} <= set(keys)
    assert min(one.latency_ms for one in found.effort) > max(one.latency_ms for one in found.first)

    assert (found.beside, found.rivalry) == (None, None)
    assert found.prediction is not None
    assert found.prediction.num_options == 2 * 3
    assert found.prediction.num_learned + found.prediction.held_out.num_candidates == 4
    assert [check.key for check in found.memory] == keys
    for check in found.memory:
        assert check.fake_bytes == check.live_bytes
        assert check.fake_training_bytes == check.live_training_bytes > check.fake_bytes

    assert done.stdout.rstrip() == instrument_markdown(found).rstrip()
    heads = re.findall(r"^## (.*)$", stem.with_suffix(".md").read_text(), re.MULTILINE)
    assert heads == ["The same candidates twice", "Prediction from single stages", "Memory"]
    assert "<svg" in stem.with_suffix(".svg").read_text()
    for path in stem.parent.iterdir():  # nothing of this machine's folders
        assert str(tmp_path) not in path.read_text()
