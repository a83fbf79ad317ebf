"""One trial: cost, refuse or train rung by rung, score, record.

``run_trial`` is a plain function without Ray or Optuna: a debugger works in it, and a fake one
tests the whole search in seconds. ``spec`` holds what goes in, ``costing`` works out what a
candidate costs on the study's targets, ``run`` puts a trial together, and ``survey`` costs networks
without a study.
"""

from upnas.trial.costing import violated
from upnas.trial.run import iterate_trial, prepare_study, run_trial
from upnas.trial.spec import Preparation, TrialRequest, TrialSpec
from upnas.trial.survey import SurveyOptions, survey_candidates, survey_network

__all__ = [
    "Preparation",
    "SurveyOptions",
    "TrialRequest",
    "TrialSpec",
    "iterate_trial",
    "prepare_study",
    "run_trial",
    "survey_candidates",
    "survey_network",
    "violated",
]
