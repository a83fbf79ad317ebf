"""The files that a benchmark writes."""

from __future__ import annotations

from pathlib import Path

from upnas.bench.markdown import benchmark_markdown
from upnas.bench.plot import benchmark_svg
from upnas.bench.records import Benchmark


def write_benchmark(benchmark: Benchmark, folder: Path) -> tuple[Path, Path, Path]:
    """Write ``upsamplers-<device>.json``, ``.md`` and ``.svg``.

    The JSON has every sample; ``Benchmark.model_validate_json`` reads it.

    Args:
        benchmark: The result.
        folder: Where to; made if it does not exist.

    Returns:
        The paths, in that order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"upsamplers-{benchmark.settings.device}"
    paths = [folder / f"{stem}.{suffix}" for suffix in ("json", "md", "svg")]
    texts = (
        benchmark.model_dump_json(indent=1) + "\n",
        benchmark_markdown(benchmark, paths[2].name),
        benchmark_svg(benchmark),
    )
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths[0], paths[1], paths[2]
