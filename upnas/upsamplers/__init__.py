"""Decoder upsamplers, and the catalogue that finds them by name.

>>> from upnas.upsamplers import Carafe, DySample
>>> upsampler = Carafe(channels=64)  # (B, 64, H, W) -> (B, 64, 2 H, 2 W)

The contract is in ``base``, the names are in ``catalogue``, and what several operators compute
alike is in ``functional``. Each other file is one operator, or a family of close relatives.
"""

from __future__ import annotations

from upnas.upsamplers.adaptive import Adaptive
from upnas.upsamplers.base import CatalogueError, GuidedUpsampler, Upsampler
from upnas.upsamplers.carafe import Carafe
from upnas.upsamplers.card import Card, card_of
from upnas.upsamplers.catalogue import (
    UPSAMPLERS,
    build_upsampler,
    find_upsampler,
    parameters_model,
    upsampler_names,
)
from upnas.upsamplers.collapse import collapse, pin, record_resolutions
from upnas.upsamplers.contract import check_contract
from upnas.upsamplers.deferred import Deferred
from upnas.upsamplers.dlu import Dlu
from upnas.upsamplers.dupsampling import DUpsampling
from upnas.upsamplers.dysample import DySample
from upnas.upsamplers.fade import Fade, FadeLite
from upnas.upsamplers.fir import Fir
from upnas.upsamplers.freqfusion import FreqFusion
from upnas.upsamplers.functional.reassembly import reassemble
from upnas.upsamplers.hybrid import Hybrid
from upnas.upsamplers.indexnet import IndexNet
from upnas.upsamplers.interpolation import Bicubic, Bilinear, Nearest, NearestExact, Trilinear
from upnas.upsamplers.jbu import JointBilateral, JointBilateralImage
from upnas.upsamplers.max_unpool import MaxUnpool
from upnas.upsamplers.projected import Projected
from upnas.upsamplers.resfu import ResfuLike
from upnas.upsamplers.resize_conv import BilinearConv1x1, NearestConv, UNetBlock
from upnas.upsamplers.sapa import Sapa
from upnas.upsamplers.selector import Selector, selectors
from upnas.upsamplers.separable import Eucb, Separable
from upnas.upsamplers.subpixel import LightSubPixel, SubPixel
from upnas.upsamplers.switched import Switched
from upnas.upsamplers.transposed import Transposed

__all__ = [
    "UPSAMPLERS",
    "Adaptive",
    "Bicubic",
    "Bilinear",
    "BilinearConv1x1",
    "Carafe",
    "Card",
    "CatalogueError",
    "DUpsampling",
    "Deferred",
    "Dlu",
    "DySample",
    "Eucb",
    "Fade",
    "FadeLite",
    "Fir",
    "FreqFusion",
    "GuidedUpsampler",
    "Hybrid",
    "IndexNet",
    "JointBilateral",
    "JointBilateralImage",
    "LightSubPixel",
    "MaxUnpool",
    "Nearest",
    "NearestConv",
    "NearestExact",
    "Projected",
    "ResfuLike",
    "Sapa",
    "Selector",
    "Separable",
    "SubPixel",
    "Switched",
    "Transposed",
    "Trilinear",
    "UNetBlock",
    "Upsampler",
    "build_upsampler",
    "card_of",
    "check_contract",
    "collapse",
    "find_upsampler",
    "parameters_model",
    "pin",
    "reassemble",
    "record_resolutions",
    "selectors",
    "upsampler_names",
]
