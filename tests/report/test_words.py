from __future__ import annotations

import pytest

from upnas.records import Target
from upnas.report.words import target_words


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(name="a"), "cpu, 1 thread, eager, float32, 1 x 3 x 256 x 256"),
        (
            Target(name="a", threads=4, batch=2, dtype="bfloat16", memory_format="channels_last"),
            "cpu, 4 threads, eager, bfloat16, channels_last, 2 x 3 x 256 x 256",
        ),
        (
            Target(name="a", device="cuda", runtime="tensorrt", dtype="float16", input=(1, 8, 9)),
            "cuda, tensorrt, float16, 1 x 1 x 8 x 9",
        ),
    ],
    ids=["plain", "channels_last", "gpu"],
)
def test_a_target_in_words(target: Target, words: str) -> None:
    assert target_words(target) == words
