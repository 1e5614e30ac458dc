from __future__ import annotations

import pytest

from fl import console


def test_a_table_never_cuts_a_path_short(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/srv/" + "x" * 300 + "/model.safetensors"
    monkeypatch.setattr(console, "out", console.Console(width=60, highlight=False))
    console.print_table(["", ""], [("model", path), ("took", "2 min")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", path]
    assert len(lines) == 2


def test_what_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(["site"], [("[red]ward[/red] a:B:",)])
    assert "[red]ward[/red] a:B:" in capsys.readouterr().out
