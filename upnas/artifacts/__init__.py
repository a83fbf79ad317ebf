"""What upsampling does to images: checkerboard, boundaries, edges and spectra, as numbers.

>>> from upnas.artifacts import dc_gain_spread, lattice_energy_ratio

Every function of images gives one number per image in double precision. Reports and tasks name
them: see ``upnas.tasks``.
"""

from __future__ import annotations

from upnas.artifacts.boundaries import (
    boundary_f1,
    boundary_iou,
    hausdorff_95,
    surface_dice,
)
from upnas.artifacts.edges import band_psnr, edge_band, edge_rise_width, edge_sharpness
from upnas.artifacts.gain import dc_gain_spread, dc_gains, network_dc_gain_spread
from upnas.artifacts.lattice import (
    lattice_energy_ratio,
    lattice_peak_ratio,
    phase_variance_ratio,
)
from upnas.artifacts.spectrum import radial_spectrum, spectrum_distance

__all__ = [
    "band_psnr",
    "boundary_f1",
    "boundary_iou",
    "dc_gain_spread",
    "dc_gains",
    "edge_band",
    "edge_rise_width",
    "edge_sharpness",
    "hausdorff_95",
    "lattice_energy_ratio",
    "lattice_peak_ratio",
    "network_dc_gain_spread",
    "phase_variance_ratio",
    "radial_spectrum",
    "spectrum_distance",
    "surface_dice",
]
