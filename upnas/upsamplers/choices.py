"""The check of parameters that are one of a few values."""

from __future__ import annotations

from typing import get_args


def check_choice(owner: str, name: str, value: object, allowed: object) -> None:
    """Refuse a value that is none of the allowed ones.

    Only ``build_upsampler`` checks annotations: a misspelt choice that is passed to a class itself
    would quietly select another operator.

    Args:
        owner: Class or function that is called.
        name: Its parameter.
        value: What the parameter was given.
        allowed: The ``Literal`` that it is annotated with, or a tuple of the values, which unlike a
            ``Literal`` can be read while torch.compile traces.

    Raises:
        ValueError: If the value is none of them.
    """
    choices = allowed if isinstance(allowed, tuple) else get_args(allowed)
    if value not in choices:
        raise ValueError(
            f"{owner}: {name} must be one of {', '.join(map(repr, choices))}; got {value!r}."
        )
