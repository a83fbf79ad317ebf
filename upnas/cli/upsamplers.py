"""`upnas upsamplers`: the catalogue as a table, and the card of one upsampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import rich.box
import rich.table
from rich.padding import Padding
from rich.text import Text

from upnas.cli.tables import output_console
from upnas.upsamplers import Card
from upnas.upsamplers.card import EXAMPLE_CHANNELS


def show_catalogue(cards: Sequence[Card]) -> None:
    """Print one row per upsampler."""
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        caption="parameters and MACs per input pixel with the defaults: C channels in, C_out out, "
        "C_guide of the guide, scale factor s\n"
        "deterministic: the gradient on CUDA    upnas upsamplers NAME: paper, formula, pitfalls",
        caption_justify="left",
    )
    for head in ("upsampler", "guide", "learned", "dims", "scale", "ONNX", "deterministic"):
        table.add_column(head, no_wrap=head == "upsampler")
    table.add_column("parameters", overflow="fold")
    table.add_column("MACs per input pixel", overflow="fold")
    for card in cards:
        cells = (
            card.name,
            "-" if card.guide == "none" else card.guide,
            _yes(card.learned),
            _dims(card),
            card.scales.replace("integer >= 1", "integer").replace("real >= 1", "real"),
            _yes(card.not_onnx is None),
            _yes(card.nondeterministic is None),
            card.params_formula,
            card.macs_formula,
        )
        table.add_row(*map(Text, cells))
    output_console().print(table)


def show_card(card: Card) -> None:
    """Print everything about one upsampler."""
    console = output_console()
    console.print(Text(card.name, style="bold"), Text(card.summary))
    defaults = ", ".join(f"{name}={_value(value)}" for name, value in card.parameters)
    channels = f"C = C_out = {EXAMPLE_CHANNELS}, s = {card.example_scale}"
    facts = {
        "paper": card.paper or "common knowledge of the field",
        "formula": card.formula,
        "parameters": defaults or "none",
        "guide": _GUIDES[card.guide],
        "features": f"{_dims(card)}; scale factor {card.scales}; "
        + ("keeps the number of channels" if card.keeps_channels else "C to C_out channels"),
        "constants": "stay constant, whatever the weights"
        if card.keeps_constants
        else "may change",
        "ONNX": "exports" if card.not_onnx is None else f"does not export: {card.not_onnx}",
        "gradient": "deterministic on CUDA"
        if card.nondeterministic is None
        else f"not deterministic on CUDA: {card.nondeterministic}",
        "weights": f"{card.params_formula} ({card.num_parameters:,} for {channels})",
        "MACs": f"{card.macs_formula} per input pixel ({card.macs_per_pixel:,} for {channels})",
        "pitfalls": "\n".join(card.pitfalls) or "none known",
    }
    grid = rich.table.Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(Text(name, style="dim"), Text(fact))
    console.print(Padding(grid, (1, 0, 0, 0)))


def card_json(card: Card) -> dict[str, Any]:
    """A card as JSON values."""
    return {**dataclasses.asdict(card), "parameters": dict(card.parameters)}


_GUIDES = {
    "none": "none",
    "skip": "the encoder feature that the stage fuses with; the image where there is none",
    "image": "the network's input image",
}


def _dims(card: Card) -> str:
    return ", ".join(f"{n}-D" for n in card.dims)


def _yes(claim: bool) -> str:
    return "yes" if claim else "no"


def _value(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
