import hashlib
import itertools
import socket

import numpy as np
import pytest

from upnas.tasks.base import SPLITS
from upnas.tasks.photos import PHOTOS, load_photos


def test_photos_load_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a photograph was looked for on the network")

    monkeypatch.setattr(socket, "socket", refuse)
    load_photos.cache_clear()
    for split in SPLITS:
        photos = load_photos(split)
        assert len(photos) == len(PHOTOS[split])
        for photo in photos:
            assert photo.dtype == np.uint8
            assert photo.shape[0] == 3
            assert min(photo.shape[1:]) >= 256
            assert not photo.flags.writeable


def test_no_photograph_is_in_two_splits() -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(PHOTOS[one]) & set(PHOTOS[other])
    digests = [hashlib.sha256(p.tobytes()).digest() for split in SPLITS for p in load_photos(split)]
    assert len(set(digests)) == len(digests) == 14
