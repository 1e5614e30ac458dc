"""The comparison as one picture."""

from __future__ import annotations

import dataclasses
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from fl.errors import ConfigError
from simulations.report import compare
from simulations.report.comparison import compare as compare_found
from simulations.report.find import Found
from simulations.report.plot import check, draw, write
from simulations.report.trial import read_trial

pytest.importorskip("matplotlib")


def test_an_svg_has_the_names_of_the_variants_and_is_the_same_every_time(sweep: Path) -> None:
    content = draw(compare(sweep), "svg")
    assert draw(compare(sweep), "svg") == content
    ET.fromstring(content)
    for words in ("fedadam (mean of 2 seeds)", "accuracy by simulated time", "paler: worst tenth of sites"):
        assert words in content.decode()


def test_a_png_is_wide_and_not_empty(sweep: Path) -> None:
    with Image.open(io.BytesIO(draw(compare(sweep), "png"))) as image:
        assert image.width > 2 * image.height
        colours = image.convert("RGB").getcolors(1 << 24)
    assert colours
    seen = {colour for _, colour in colours}
    assert {(0x2F, 0x6F, 0xDE), (0xC8, 0x50, 0x1A)} <= seen


def test_a_run_without_time_sites_and_seeds_is_drawn(untimed: Path) -> None:
    content = draw(compare(untimed), "svg").decode()
    assert "by simulated time" not in content
    assert "paler" not in content


def test_what_a_run_is_called_is_no_formula(run: Path, tmp_path: Path) -> None:
    trial = read_trial(run)
    facts = dataclasses.replace(trial.facts, run=dataclasses.replace(trial.facts.run, name=r"$\frac{1}{$ <b>"))
    comparison = compare_found(Found((dataclasses.replace(trial, facts=facts),), ()))
    write(comparison, tmp_path / "odd.svg", title="odd")
    assert r"$\frac{1}{$ &lt;b&gt;" in (tmp_path / "odd.svg").read_text()


def test_the_ending_says_what_is_written(sweep: Path, tmp_path: Path) -> None:
    beginnings = {"svg": b"<?xml", "png": b"\x89PNG", "html": b"<!doctype html>"}
    for ending, beginning in beginnings.items():
        write(compare(sweep), tmp_path / f"plot.{ending}", title="strategies")
        assert (tmp_path / f"plot.{ending}").read_bytes().startswith(beginning)
    with pytest.raises(ConfigError, match=r"cannot draw .*plot\.gif") as raised:
        check(tmp_path / "plot.gif")
    assert raised.value.hint == "let it end with one of: .svg, .png, .html"


def test_runs_that_measured_nothing_cannot_be_drawn(run: Path) -> None:
    begun = dataclasses.replace(read_trial(run), points=())
    with pytest.raises(ConfigError, match="nothing was measured"):
        draw(compare_found(Found((begun,), ())), "svg")
