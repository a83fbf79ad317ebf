from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import DUpsampling

from .helpers import num_parameters, perturb

CLASSES = 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def one_hot_labels(batch: int, height: int, width: int) -> Tensor:
    """Blobs of three classes, (B, 3, height, width)."""
    scores = F.interpolate(torch.randn(batch, CLASSES, 3, 3), size=(height, width), mode="bilinear")
    return F.one_hot(scores.argmax(1), CLASSES).movedim(-1, 1).double()


def patches(maps: Tensor, s: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The s x s patches, each as one row in the order of the output channels."""
    rows = [
        image[:, i : i + s, j : j + s].flatten().numpy()
        for image in maps
        for i in range(0, maps.shape[2], s)
        for j in range(0, maps.shape[3], s)
    ]
    return np.stack(rows)


@pytest.mark.parametrize("scale_factor", [2, 3])
def test_a_pixel_becomes_its_patch(scale_factor: int) -> None:
    s = scale_factor
    upsampler = DUpsampling(4, CLASSES, scale_factor=s).double()
    perturb(upsampler)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    y = upsampler(x)
    w = upsampler.conv.weight[:, :, 0, 0]
    for i in range(3):
        for j in range(5):
            patch = (x[:, :, i, j] @ w.T).reshape(2, CLASSES, s, s)
            torch.testing.assert_close(y[..., i * s : i * s + s, j * s : j * s + s], patch)


def test_starts_as_nearest_neighbour() -> None:
    y = DUpsampling(4, CLASSES)(torch.randn(2, 4, 5, 6))
    torch.testing.assert_close(y, F.interpolate(y[..., ::2, ::2], scale_factor=2))


@pytest.mark.parametrize(("scale_factor", "channels"), [(2, 4), (4, 8), (4, 1)])
def test_fit_is_the_principal_components_of_the_patches(scale_factor: int, channels: int) -> None:
    labels = one_hot_labels(6, 24, 32)
    upsampler = DUpsampling(channels, CLASSES, scale_factor=scale_factor).double()
    upsampler.fit_(labels)
    w = upsampler.conv.weight[:, :, 0, 0].detach().numpy()
    v = patches(labels, scale_factor)
    _, singular_values, components = np.linalg.svd(v, full_matrices=False)
    components = components[:channels]
    # The signs of components are arbitrary; the projection onto them is not.
    np.testing.assert_allclose(w @ w.T, components.T @ components, atol=1e-9)
    residual = ((v - v @ w @ w.T) ** 2).sum()
    np.testing.assert_allclose(residual, (singular_values[channels:] ** 2).sum(), rtol=1e-9)


@pytest.mark.parametrize("channels", [12, 16])
def test_fit_with_enough_channels_reconstructs_the_labels(channels: int) -> None:
    labels = one_hot_labels(4, 12, 16)
    upsampler = DUpsampling(channels, CLASSES).double()
    upsampler.fit_(labels)
    w = upsampler.conv.weight[:, :, 0, 0]
    projected = torch.einsum("nc,bnhw->bchw", w, F.pixel_unshuffle(labels, 2))
    torch.testing.assert_close(upsampler(projected), labels)
    assert not w[:, 12:].any()


def test_fit_keeps_training_possible_and_the_dtype() -> None:
    upsampler = DUpsampling(4, CLASSES)
    upsampler.fit_(one_hot_labels(2, 8, 8))
    assert upsampler.conv.weight.dtype == torch.float32
    assert upsampler.conv.weight.requires_grad
    upsampler(torch.randn(1, 4, 2, 2)).sum().backward()
    assert upsampler.conv.weight.grad is not None


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 3, 7, 8), (1, 3, 8, 7)])
def test_fit_refuses_maps_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs maps with 3 channels and sides that 2 divides"):
        DUpsampling(4, CLASSES).fit_(torch.zeros(shape))


def test_counts() -> None:
    upsampler = DUpsampling(5, 3, scale_factor=4)
    assert num_parameters(upsampler) == 5 * 16 * 3
    assert upsampler.macs_per_pixel() == 5 * 16 * 3
