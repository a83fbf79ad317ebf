"""Neural architecture search for how decoders upsample.

Importing the package is cheap: torch, ray and optuna are imported by the functions that need
them, so the command line answers at once.
"""

__version__ = "0.1.0"
