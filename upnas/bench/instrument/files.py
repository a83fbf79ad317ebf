"""The files that the instrument's benchmark writes."""

from __future__ import annotations

from pathlib import Path

from upnas.bench.instrument.markdown import instrument_markdown
from upnas.bench.instrument.plot import instrument_svg
from upnas.bench.instrument.records import InstrumentBenchmark
from upnas.errors import StudyError


def write_instrument_benchmark(
    benchmark: InstrumentBenchmark, folder: Path
) -> tuple[Path, Path, Path]:
    """Write ``measure-<device>.json``, ``.md`` and ``.svg``, and return their paths.

    Raises:
        StudyError: If they cannot be written.
    """
    stem = f"measure-{benchmark.target.device}"
    paths = [folder / f"{stem}.{suffix}" for suffix in ("json", "md", "svg")]
    texts = (
        benchmark.model_dump_json(indent=1) + "\n",
        instrument_markdown(benchmark, paths[2].name),
        instrument_svg(benchmark),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
    except OSError as error:
        raise StudyError(f"{folder}: cannot be written: {error.strerror}.") from error
    return paths[0], paths[1], paths[2]
