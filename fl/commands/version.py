"""``fl version``."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Annotated

import typer

from fl import __version__, console


def version(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Name the versions of fedfleet, Flower, torch and CUDA, and the device that training would use."""
    facts = {
        "fedfleet": __version__,
        "python": platform.python_version(),
        "flwr": _installed("flwr"),
        "torch": _installed("torch"),
        "cuda": None,
        "device": None,
    }
    if facts["torch"]:
        import torch

        from fl.tasks.device import choose

        facts["cuda"] = torch.version.cuda
        facts["device"] = str(choose("auto"))
    if as_json:
        console.print_json(facts)
    else:
        console.print_table(["part", "version"], [(part, value or "not there") for part, value in facts.items()])


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
