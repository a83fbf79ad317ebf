"""Each mistake in a YAML file gives its file, line, path, value, what is allowed, the near word."""

from __future__ import annotations

from pathlib import Path

import pytest

from upnas.upsamplers import parameters_model, upsampler_names

from .conftest import MINIMAL, Load, Refuse

KNOWN_UPSAMPLERS = ", ".join(upsampler_names()) + "."
COSTS = (
    "latency_ms, peak_memory_mib, training_peak_memory_mib, process_peak_rss_mib, output_error, "
    "num_parameters"
)
METRICS = (
    "dice, iou, boundary_f1, boundary_iou, hd95, nsd, lattice_energy, phase_variance, "
    "dc_gain_spread"
)
STAGES = "Allowed: default, or the number of a stage (1 = deepest)."
SEARCH_KEYS = (
    "sampler, trials, rungs, seeds, replicate, seed, predict_costs, concurrency, cpus_per_trial, "
    "gpus_per_trial, max_retries."
)

# What replaces `bilinear` in line 6, and the message.
IN_STAGE = {
    "unknown upsampler": (
        "[nearest, carefe]",
        "default.upsampler[1]: unknown upsampler 'carefe'. Did you mean 'carafe'? Allowed: "
        + KNOWN_UPSAMPLERS,
    ),
    "unknown single upsampler": (
        "carefe",
        "default.upsampler: unknown upsampler 'carefe'. Did you mean 'carafe'? Allowed: "
        + KNOWN_UPSAMPLERS,
    ),
    "empty choice": (
        "[]",
        "default.upsampler: an empty choice. Allowed: one or more of " + KNOWN_UPSAMPLERS,
    ),
    "duplicate choice": (
        "[nearest, bilinear, nearest]",
        "default.upsampler[2]: 'nearest' is listed twice; keep one of the two.",
    ),
    "number as upsampler": ("[3, nearest]", "default.upsampler[0]: got 3. Allowed: a word."),
    "mapping as upsampler": (
        "{carafe: 1}",
        "default.upsampler: got a mapping with the keys carafe. "
        "Allowed: a word or a list, each a word.",
    ),
    "value that the parameter does not have": (
        "transposed, transposed: {kernel_size: [2, 5]}",
        "default.transposed.kernel_size[1]: got 5. Allowed: 2, 4.",
    ),
    "quoted number": (
        "transposed, transposed: {kernel_size: '2'}",
        "default.transposed.kernel_size: got '2'. Remove the quotes. Allowed: 2, 4.",
    ),
    "boolean as number": (
        "carafe, carafe: {compressed_channels: [16, true]}",
        "default.carafe.compressed_channels[1]: got true. Allowed: a whole number, at least 1.",
    ),
    "unknown parameter": (
        "transposed, transposed: {kernel_sise: 2}",
        "default.transposed.kernel_sise: unknown parameter of transposed 'kernel_sise'. "
        "Did you mean 'kernel_size'? Allowed: "
        + ", ".join(parameters_model("transposed").model_fields)
        + ".",
    ),
    "empty parameter choice": (
        "transposed, transposed: {kernel_size: []}",
        "default.transposed.kernel_size: an empty choice. Write one or more values.",
    ),
    "duplicate parameter choice": (
        "transposed, transposed: {kernel_size: [2, 4, 2]}",
        "default.transposed.kernel_size[2]: 2 is listed twice; keep one of the two.",
    ),
    "parameters that are no mapping": (
        "transposed, transposed: 3",
        "default.transposed: got 3. Allowed: a mapping.",
    ),
    "parameters of an upsampler that is not chosen": (
        "bilinear, transposed: {kernel_size: 2}",
        "default.transposed: parameters of 'transposed', which this stage cannot choose. "
        "Allowed: parameters of bilinear. Add 'transposed' to upsampler, or remove them.",
    ),
    "unknown key of a stage": (
        "bilinear, trnasposed: {kernel_size: 2}",
        "default.trnasposed: unknown key 'trnasposed'. Did you mean 'transposed'? "
        "Allowed: upsampler, " + KNOWN_UPSAMPLERS,
    ),
    "number as key of a stage": (
        "bilinear, 3: {kernel_size: 2}",
        "default.3: unknown key 3. Allowed: upsampler.",
    ),
    "wrong item of a list value": (
        "selector, selector: {arms: [bilinear, 3]}",
        "default.selector.arms[1]: got 3. Allowed: a word.",
    ),
    "wrong item of a list of list values": (
        "selector, selector: {arms: [[bilinear, 3]]}",
        "default.selector.arms[0][1]: got 3. Allowed: a word.",
    ),
    "upsampler that cannot be built": (
        "[nearest, selector], selector: {arms: [bilinear, adaptive]}",
        "default.upsampler[1]: 'selector' cannot work at stage 1 (8->4, 128 channels), "
        "2 (4->2, 64 channels), 3 (2->1, 64 channels): Selector: arm 'adaptive' itself picks by "
        "resolution; name its arms here. Give the stage its own list without it, or other "
        "parameters.",
    ),
}


@pytest.mark.parametrize(("yaml", "message"), IN_STAGE.values(), ids=IN_STAGE)
def test_mistake_in_a_stage(refuse: Refuse, yaml: str, message: str) -> None:
    text = MINIMAL.replace("upsampler: bilinear", f"upsampler: {yaml}")
    assert refuse(text) == [f"my.yaml:6: stages.{message}"]


# What is appended as line 7, and the message.
APPENDED = {
    "stage out of range": (
        "  4: {upsampler: nearest}",
        "stages.4: there is no stage 4: this model has 3 stages, deepest first. "
        "Allowed: default, 1 (8->4), 2 (4->2), 3 (2->1).",
    ),
    "stage 0": ("  0: {upsampler: nearest}", f"stages.0: got 0. {STAGES}"),
    "misspelt stage": (
        "  defalt: {upsampler: nearest}",
        f"stages.defalt: got 'defalt'. Did you mean 'default'? {STAGES}",
    ),
    "quoted stage": (
        "  '1': {upsampler: nearest}",
        f"stages.1: got '1'. Remove the quotes. {STAGES}",
    ),
    "stage that is no mapping": (
        "  1: nearest",
        "stages.1: got 'nearest'. Allowed: a mapping with the keys upsampler.",
    ),
    "duplicate key": (
        "  default: {upsampler: nearest}",
        "stages.default: the key is written twice, first in line 6; keep one of the two.",
    ),
    "unknown top-level key": (
        "searhc: {}",
        "searhc: unknown key 'searhc'. Did you mean 'search'? Allowed: name, task, model, stages, "
        "objectives, constraints, targets, training, search.",
    ),
    "unknown key": (
        "search: {trails: 3}",
        f"search.trails: unknown key 'trails'. Did you mean 'trials'? Allowed: {SEARCH_KEYS}",
    ),
    "empty section": (
        "search:",
        f"search: got nothing (null). Allowed: a mapping with the keys {SEARCH_KEYS}",
    ),
    "wrong type": (
        "search: {trials: many}",
        "search.trials: got 'many'. Allowed: a whole number, greater than 0.",
    ),
    "boolean as count": (
        "search: {trials: true}",
        "search.trials: got true. Allowed: a whole number, greater than 0.",
    ),
    "neither word nor number": (
        "search: {concurrency: 0}",
        "search.concurrency: got 0. Allowed: auto or a whole number, greater than 0.",
    ),
    "unknown sampler": (
        "search: {sampler: nsga}",
        "search.sampler: got 'nsga'. Did you mean 'nsga2'? Allowed: auto, tpe, nsga2, gp, random.",
    ),
    "rungs out of order": (
        "search: {rungs: [1, 9, 3]}",
        "search.rungs: got [1, 9, 3]. Allowed: increasing numbers, as each is the epochs trained "
        "so far; write [1, 3, 9].",
    ),
    "no rungs": (
        "search: {rungs: []}",
        "search.rungs: got []. Allowed: a list of at least 1, each a whole number, greater than 0.",
    ),
    "out of range": (
        "training: {warmup: 1}",
        "training.warmup: got 1. Allowed: a number, at least 0, less than 1.",
    ),
    "not a number": (
        "training: {learning_rate: .nan}",
        "training.learning_rate: got nan. Allowed: a number, greater than 0.",
    ),
    "no objectives": (
        "objectives: []",
        "objectives: got []. Allowed: a list of at least 1, each a mapping with the keys metric, "
        "direction, target.",
    ),
    "unknown metric": (
        "objectives: [{metric: latency}]",
        "objectives[0].metric: unknown metric 'latency'. Did you mean 'latency_ms'? "
        f"Allowed: {METRICS}, {COSTS}.",
    ),
    "contradicting direction of a quality": (
        "objectives: [{metric: dice, direction: minimize}]",
        "objectives[0].direction: got 'minimize', but dice is better when it is larger. "
        "Allowed: maximize (or leave it out).",
    ),
    "contradicting direction of a cost": (
        "objectives: [{metric: latency_ms, direction: maximize}]",
        "objectives[0].direction: got 'maximize', but latency_ms is better when it is smaller. "
        "Allowed: minimize (or leave it out).",
    ),
    "unknown direction": (
        "objectives: [{metric: dice, direction: maximise}]",
        "objectives[0].direction: got 'maximise'. Did you mean 'maximize'? "
        "Allowed: maximize, minimize.",
    ),
    "objective of an unknown target": (
        "objectives: [{metric: latency_ms, target: lapto}]",
        "objectives[0].target: unknown target 'lapto'. Did you mean 'laptop'? Allowed: laptop.",
    ),
    "quality on a target": (
        "objectives: [{metric: dice, target: laptop}]",
        "objectives[0].target: got 'laptop', but dice is not measured on a target. Leave it out.",
    ),
    "duplicate objective": (
        "objectives: [{metric: latency_ms, target: laptop}, {metric: latency_ms}]",
        "objectives[1]: the objective 'latency_ms' is listed twice; keep one of the two.",
    ),
    "constraint on a quality that is no mapping": (
        "constraints: {hd95: 5}",
        "constraints.hd95: got 5. Allowed: a mapping with the keys min, max, target.",
    ),
    "quality constraint on a target": (
        "constraints: {dice: {min: 0.5, target: laptop}}",
        "constraints.dice.target: got 'laptop', but dice is not measured on a target. "
        "Leave it out.",
    ),
    "impossible limit on a quality": (
        "constraints: {hd95: {min: 5, max: 4}}",
        "constraints.hd95: min 5 is above max 4; nothing could satisfy it.",
    ),
    "unknown constraint": (
        "constraints: {latency: {max: 5}}",
        "constraints.latency: unknown metric 'latency'. Did you mean 'latency_ms'? "
        f"Allowed: {COSTS}, exportable, {METRICS}.",
    ),
    "constraint on a metric of another task": (
        "constraints: {psnr: {min: 30}}",
        f"constraints.psnr: unknown metric 'psnr'. Allowed: {COSTS}, exportable, {METRICS}.",
    ),
    "unknown key of a limit": (
        "constraints: {latency_ms: {maxx: 5}}",
        "constraints.latency_ms.maxx: unknown key 'maxx'. Did you mean 'max'? "
        "Allowed: min, max, target.",
    ),
    "limit that is no mapping": (
        "constraints: {latency_ms: 5}",
        "constraints.latency_ms: got 5. Allowed: a mapping with the keys min, max, target.",
    ),
    "empty limit": (
        "constraints: {latency_ms: {}}",
        "constraints.latency_ms: a limit needs min, max or both, e.g. {max: 40}.",
    ),
    "impossible limit": (
        "constraints: {latency_ms: {min: 5, max: 4}}",
        "constraints.latency_ms: min 5 is above max 4; nothing could satisfy it.",
    ),
    "constraint on an unknown target": (
        "constraints: {latency_ms: {max: 5, target: phone}}",
        "constraints.latency_ms.target: unknown target 'phone'. Allowed: laptop.",
    ),
    "unknown export format": (
        "constraints: {exportable: onxx}",
        "constraints.exportable: got 'onxx'. Did you mean 'onnx'? Allowed: onnx, torch_export, "
        "compile or a list, each onnx, torch_export, compile.",
    ),
    "duplicate target": (
        "targets: [{name: phone}, {name: phone}]",
        "targets[1].name: the name 'phone' is taken by another target; rename one of the two.",
    ),
    "target of other channels": (
        "targets: [{name: phone, input: [1, 64, 64]}]",
        "targets[0].input: got [1, 64, 64], but the task 'segmentation' has inputs of 3 channels. "
        "Allowed: [3, height, width].",
    ),
    "target without a width": (
        "targets: [{name: phone, input: [3, 64]}]",
        "targets[0].input: got [3, 64]. Allowed: a list of 3, each a whole number, greater than 0.",
    ),
    "unknown device": (
        "targets: [{name: phone, device: gpu}]",
        "targets[0].device: got 'gpu'. Did you mean 'cpu'? Allowed: cpu, cuda, mps.",
    ),
    "unknown dtype": (
        "targets: [{name: phone, dtype: flaot16}]",
        "targets[0].dtype: got 'flaot16'. Did you mean 'float16'? "
        "Allowed: float32, bfloat16, float16, fp32, bf16, fp16.",
    ),
    "number as dtype": (
        "targets: [{name: phone, dtype: 16}]",
        "targets[0].dtype: got 16. Allowed: float32, bfloat16, float16, fp32, bf16, fp16.",
    ),
    "unknown runtime": (
        "targets: [{name: phone}, {name: server, runtime: onnx_runtime}]",
        "targets[1].runtime: got 'onnx_runtime'. Did you mean 'onnxruntime'? "
        "Allowed: eager, compile, cuda_graph, onnxruntime, openvino, tensorrt.",
    ),
    "unknown memory format": (
        "targets: [{name: phone, memory_format: channel_last}]",
        "targets[0].memory_format: got 'channel_last'. Did you mean 'channels_last'? "
        "Allowed: contiguous, channels_last.",
    ),
    "no threads": (
        "targets: [{name: phone, threads: 0}]",
        "targets[0].threads: got 0. Allowed: a whole number, greater than 0.",
    ),
    "runtime that does not run on the device": (
        "targets: [{name: phone, runtime: cuda_graph}]",
        "targets[0]: runtime 'cuda_graph' does not run on device 'cpu'. "
        "Allowed on cpu: eager, compile, onnxruntime, openvino.",
    ),
    "runtime without the dtype": (
        "targets: [{name: server, device: cuda, runtime: tensorrt, dtype: bf16}]",
        "targets[0]: runtime 'tensorrt' has no dtype 'bfloat16' on device 'cuda'. "
        "Allowed: float32, float16.",
    ),
    "dtype of a runtime on another device": (
        "targets: [{name: phone, runtime: onnxruntime, dtype: float16}]",
        "targets[0]: runtime 'onnxruntime' has no dtype 'float16' on device 'cpu'. "
        "Allowed: float32.",
    ),
    "runtime without the memory format": (
        "targets: [{name: phone, runtime: openvino, memory_format: channels_last}]",
        "targets[0]: runtime 'openvino' has no memory_format 'channels_last': it chooses its own. "
        "Allowed: contiguous (or leave it out).",
    ),
}


@pytest.mark.parametrize(("yaml", "message"), APPENDED.values(), ids=APPENDED)
def test_mistake_in_an_added_line(refuse: Refuse, yaml: str, message: str) -> None:
    assert refuse(MINIMAL + yaml + "\n") == [f"my.yaml:7: {message}"]


# What is replaced, by what, and the message.
REPLACED = {
    "unknown task": (
        "segmentation",
        "segmentaton",
        "1: task.type: unknown value 'segmentaton'. Did you mean 'segmentation'? "
        "Allowed: segmentation, super_resolution.",
    ),
    "task without a type": (
        "{type: segmentation}",
        "{crop: 64}",
        "1: task.type: missing. Allowed: segmentation, super_resolution.",
    ),
    "task that is no mapping": (
        "{type: segmentation}",
        "segmentation",
        "1: task: got 'segmentation'. Allowed: a mapping with the key type: segmentation or "
        "super_resolution.",
    ),
    "unknown data": (
        "{type: segmentation}",
        "{type: segmentation, data: {type: filamentz}}",
        "1: task.data.type: unknown value 'filamentz'. Did you mean 'filaments'? "
        "Allowed: filaments, folder.",
    ),
    "metric that the task does not have": (
        "{type: segmentation}",
        "{type: segmentation, metrics: [nsd, hd59]}",
        "1: task.metrics: unknown metric 'hd59'. Did you mean 'hd95'? Allowed: dice, iou, "
        "boundary_f1, boundary_iou, hd95, nsd, lattice_energy, phase_variance, dc_gain_spread.",
    ),
    "crop too small for the lattice": (
        "{type: segmentation}",
        "{type: segmentation, crop: 16, lattice_period: 4}",
        "1: task: got lattice_period: 4, but a crop of 16 px must hold 6 periods. "
        "Allowed: at most 2.",
    ),
    "task option out of range": (
        "{type: segmentation}",
        "{type: segmentation, crop: '64'}",
        "1: task.crop: got '64'. Remove the quotes. "
        "Allowed: a whole number, at least 16, at most 1024.",
    ),
    "task that does not fit the decoder": (
        "type: segmentation",
        "type: super_resolution",
        "2: model: decoder 'unet' gives outputs of the input's size, but task 'super_resolution' "
        "wants x2. Use decoder: sr.",
    ),
    "unknown encoder": (
        "resnet18",
        "resnet81",
        "3: model.encoder.name: timm knows no encoder 'resnet81'. Did you mean 'resnet18'? "
        "`timm.list_models()` lists them all.",
    ),
    "too deep": (
        "depth: 3",
        "depth: 9",
        "3: model.encoder.depth: encoder 'resnet18' gives 5 features (reductions "
        "[2, 4, 8, 16, 32]); depth is 9. Allowed: 1 to 5.",
    ),
    "unknown decoder": (
        "decoder: unet",
        "decoder: unett",
        "4: model.decoder: unknown decoder 'unett'. Did you mean 'unet'? Allowed: sr, unet.",
    ),
    "no decoder": (
        "  decoder: unet\n",
        "",
        "2: model.decoder: missing. Allowed: sr, unet.",
    ),
    "encoder that the decoder does not take": (
        "type: segmentation}\nmodel:\n  encoder: {name: resnet18, depth: 3}\n  decoder: unet",
        "type: super_resolution}\nmodel:\n  encoder: {name: resnet18, depth: 3}\n  decoder: sr",
        "2: model: decoder 'sr' has its own trunk; remove model.encoder.",
    ),
    "no encoder": (
        "  encoder: {name: resnet18, depth: 3}\n",
        "",
        "2: model: decoder 'unet' needs model.encoder, e.g. {name: resnet18, depth: 4}.",
    ),
    "unknown decoder option": (
        "decoder: unet",
        "decoder: unet\n  chanels: [3]",
        "5: model.chanels: unknown key 'chanels'. Did you mean 'channels'? "
        "Allowed: decoder, encoder, channels, num_convs.",
    ),
    "wrong decoder option": (
        "decoder: unet",
        "decoder: unet\n  channels: [16, 0, 8]",
        "5: model.channels[1]: got 0. Allowed: a whole number, greater than 0.",
    ),
    "no stages": (
        "stages:\n  default: {upsampler: bilinear}\n",
        "",
        "1: stages: missing. What each decoder stage chooses from, by number (1 = deepest) or "
        "`default`, e.g. {default: {upsampler: [bilinear, transposed]}}.",
    ),
    "stages without a choice": (
        "default: {",
        "2: {",
        "5: stages: no upsampler for stage 1, 3; this model has 3 stages. "
        "Add the missing entries, or `default: {upsampler: [...]}`.",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), REPLACED.values(), ids=REPLACED)
def test_mistake_in_a_changed_line(refuse: Refuse, old: str, new: str, message: str) -> None:
    assert refuse(MINIMAL.replace(old, new)) == [f"my.yaml:{message}"]


def test_encoder_without_features_only(refuse: Refuse) -> None:
    (line,) = refuse(MINIMAL.replace("resnet18", "mixer_s16_224"))
    assert line.startswith("my.yaml:3: model.encoder.name: encoder 'mixer_s16_224' ")
    assert "Choose" in line
    assert "resnet18" in line


def test_all_mistakes_come_at_once_in_the_order_of_the_file(refuse: Refuse) -> None:
    text = (
        MINIMAL.replace("upsampler: bilinear", "upsampler: [bilinaer]")
        + "search: {trials: 0, rungs: [3, 1]}\nobjectives: [{metric: dise}]\n"
    ).replace("resnet18", "resnet81")
    assert [line.split(": ")[:2] for line in refuse(text)] == [
        ["my.yaml:3", "model.encoder.name"],
        ["my.yaml:6", "stages.default.upsampler[0]"],
        ["my.yaml:7", "search.trials"],
        ["my.yaml:7", "search.rungs"],
        ["my.yaml:8", "objectives[0].metric"],
    ]


def test_at_most_ten_mistakes_are_listed(refuse: Refuse) -> None:
    lines = refuse(MINIMAL + "".join(f"extra{n}: 1\n" for n in range(13)))
    assert len(lines) == 11
    assert lines[-1] == "my.yaml: and 3 more mistakes."


def test_mistake_in_a_long_list_has_its_own_line(refuse: Refuse) -> None:
    text = MINIMAL.replace(
        "{upsampler: bilinear}", "\n    upsampler:\n      - bilinear\n      - carefe"
    )
    (line,) = refuse(text)
    assert line.startswith("my.yaml:9: stages.default.upsampler[1]: unknown upsampler 'carefe'.")


def test_default_may_hold_parameters_for_the_lists_of_other_stages(load: Load) -> None:
    space = load(
        MINIMAL.replace("bilinear}", "bilinear, transposed: {kernel_size: [2, 4]}}")
        + "  1: {upsampler: [transposed]}\n"
    )
    assert [len(stage.options) for stage in space.stages] == [2, 1, 1]


OPERATOR = """
import torch.nn.functional as F
from upnas.upsamplers import Upsampler

class Mine(Upsampler):
    keeps_channels = True
    def __init__(self, channels, out_channels=None, *, scale_factor: int = 2, gain: float = 1.0):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.gain = gain
    def upsample(self, x, guide):
        return self.gain * F.interpolate(x, size=self.upsampled_size(x))
    def macs_per_pixel(self):
        return 0

class Picky(Mine):
    def __init__(self, channels, out_channels=None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        assert channels == 36, "36 only"
"""


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("'ops.py:Mein'", "upsampler: Upsampler '{ops}:Mein': {ops} has no 'Mein'. "),
        ("ops.py", "upsampler: Upsampler 'ops.py' is a file; write ops.py:Class."),
        ("'leaves.py:Mine'", "upsampler: Upsampler '{leaves}:Mine': SystemExit: 0."),
        (
            "'ops.py:Mine', 'opps.py:Mine': {gain: 2.0}",
            "opps.py:Mine: Upsampler '{opps}:Mine': there is no file {opps}.",
        ),
        (
            "'ops.py:Picky'",
            "upsampler: '{ops}:Picky' cannot work at stage 1 (8->4, 128 channels), ",
        ),
        (
            "selector, selector: {arms: [['ops.py:Picky', bilinear]]}",
            "upsampler: 'selector' cannot work at stage 1 (8->4, 128 channels), ",
        ),
    ],
)
def test_mistakes_in_a_file_of_operators(
    refuse: Refuse, tmp_path: Path, stage: str, message: str
) -> None:
    (tmp_path / "ops.py").write_text(OPERATOR)
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    files = {name: str(tmp_path / f"{name}.py") for name in ("ops", "opps", "leaves")}
    (line,) = refuse(MINIMAL.replace("bilinear", stage))
    for name, file in files.items():
        message = message.replace(f"{{{name}}}", file)
    assert line.startswith(f"my.yaml:6: stages.default.{message}")
    assert ("raised AssertionError: 36 only. " in line) == ("Picky" in stage)


def test_arms_from_a_file_are_relative_to_the_yaml(load: Load, tmp_path: Path) -> None:
    (tmp_path / "ops.py").write_text(OPERATOR)
    text = MINIMAL.replace("bilinear", "selector, selector: {arms: [[nearest, 'ops.py:Mine']]}")
    (option,) = load(text).stages[0].options
    assert dict(option.parameters)["arms"] == ("nearest", f"{tmp_path}/ops.py:Mine")


@pytest.mark.parametrize(
    ("word", "dtype"),
    [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16"), ("float16", "float16")],
)
def test_short_words_for_dtypes(load: Load, word: str, dtype: str) -> None:
    space = load(MINIMAL + f"targets: [{{name: phone, dtype: {word}}}]\n")
    assert space.targets[0].dtype == dtype
