"""Search spaces: YAML -> choices -> candidates.

Names are checked against the catalogues of upsamplers, decoders, encoders and tasks before
anything starts, and every mistake of a file is reported with its line.
"""

from upnas.space.choices import Stage, UpsamplerChoice, default_choice
from upnas.space.compare import Difference, difference
from upnas.space.describe import (
    ChoiceDescription,
    SpaceDescription,
    StageDescription,
    describe,
)
from upnas.space.files import find_space, shipped_folder, shipped_spaces
from upnas.space.load import load_space, space_from_config
from upnas.space.schema import SearchConfig, SpaceConfig, TrainingConfig
from upnas.space.space import BASELINES, SearchSpace, Suggest

__all__ = [
    "BASELINES",
    "ChoiceDescription",
    "Difference",
    "SearchConfig",
    "SearchSpace",
    "SpaceConfig",
    "SpaceDescription",
    "Stage",
    "StageDescription",
    "Suggest",
    "TrainingConfig",
    "UpsamplerChoice",
    "default_choice",
    "describe",
    "difference",
    "find_space",
    "load_space",
    "shipped_folder",
    "shipped_spaces",
    "space_from_config",
]
