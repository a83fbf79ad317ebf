"""The search: one driver owns the study, Ray Tune executes. Only this package imports either."""

from __future__ import annotations

from upnas.search.driver import SearchOptions, run_search
from upnas.search.observer import SearchObserver

__all__ = ["SearchObserver", "SearchOptions", "run_search"]
