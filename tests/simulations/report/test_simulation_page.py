"""The page of simulations: what is on it, and that it is one file that asks for nothing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from pathlib import Path

import pytest

from simulations.report import compare, write
from simulations.report.comparison import compare as compare_found
from simulations.report.find import Found, Unread
from simulations.report.page import MOST_CONCERNS, render, status
from simulations.report.trial import read_trial
from tests.fl.report.html_page import Page

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def html(sweep: Path) -> str:
    return render(compare(sweep, target=0.3), title="strategies")


def test_the_page_has_the_figures_of_the_variants(sweep: Path, html: str) -> None:
    page, comparison = Page(html), compare(sweep)
    for line in comparison.lines:
        stat = line.final["accuracy"]
        assert f"{100 * stat.mean:.1f} ± {100 * stat.std:.1f} %" in page.text
    for words in (
        "strategies completed",
        "runs 4",
        "2 variants, 2 seeds",
        "worst tenth of sites",
        "accuracy by simulated time",
        "accuracy by traffic",
        "accuracy 30.0 %",
        "fedadam: accuracy from site to site",
        "strategy.server_learning_rate",
        "fl report",
        "Kinds of devices",
    ):
        assert words in page.text


def test_elements_are_closed_ids_are_unique_and_links_lead_somewhere(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    linked = {str(attributes["href"]).removeprefix("#") for attributes in page.of("a")}
    assert named | linked <= set(ids)


def test_the_page_asks_for_nothing_from_anywhere_and_only_its_own_script_may_run(html: str) -> None:
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    for name in ("src", "srcset", "action", "style", "onclick", "onload", "onerror"):
        assert not [tag for tag, attributes in page.elements if name in attributes]
    (policy,) = [str(meta["content"]) for meta in page.of("meta") if "http-equiv" in meta]
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_every_line_has_the_colour_of_its_variant(html: str) -> None:
    page = Page(html)
    styled = set(re.findall(r"\.k-([\w-]+) \{", html))
    used = {key for _, attributes in page.elements for key in re.findall(r"k-([\w-]+)", str(attributes.get("class")))}
    assert {"v0", "v1", "spread", "worst"} <= used <= styled


def test_a_run_alone_has_no_table_of_variants(run: Path) -> None:
    page = Page(render(compare(run), title="one"))
    assert "variants" not in {attributes.get("id") for attributes in page.of("section")}
    assert "its best" in page.text


def test_a_run_without_evaluation_and_time_has_a_page(untimed: Path) -> None:
    text = Page(render(compare(untimed), title="plain")).text
    assert "No model was evaluated at single sites" in text
    assert "by simulated time" not in text
    assert "energy" not in text.split("Configuration")[1].split("What a value costs")[0]


def test_a_run_that_has_just_begun_has_a_page(run: Path) -> None:
    trial = read_trial(run)
    running = dataclasses.replace(trial.facts.run, status="running", rounds_committed=0)
    begun = dataclasses.replace(trial, points=(), at_sites={}, facts=dataclasses.replace(trial.facts, run=running))
    comparison = compare_found(Found((begun,), ()))
    assert status(comparison) == "running"
    text = Page(render(comparison, title="begun")).text
    assert "Nothing was measured yet" in text
    assert "0 of 4" in text


def test_what_run_files_and_journals_say_is_text(run: Path) -> None:
    trial = read_trial(run)
    facts = dataclasses.replace(
        trial.facts,
        run=dataclasses.replace(trial.facts.run, name=ATTACK, task=ATTACK, strategy=ATTACK),
        config={**trial.facts.config, "strategy": {"name": ATTACK}},
    )
    points = tuple(dataclasses.replace(point, metrics={"centre": {ATTACK: 0.5}}) for point in trial.points)
    odd = dataclasses.replace(trial, facts=facts, points=points, directory=run.with_name("<b>bold"))
    html = render(compare_found(Found((trial, odd), (Unread(Path(ATTACK), ATTACK),))), title=ATTACK)
    page = Page(html)
    assert not page.of("img")
    assert "<b>bold" in page.text
    assert html.count("<script>") == 1
    assert html.count("</script>") == len(page.of("script"))
    assert ATTACK in page.text


def test_of_a_thousand_concerns_the_gravest_are_there_and_the_page_says_so(run: Path) -> None:
    unread = tuple(Unread(Path(f"run-{number}"), "it is damaged") for number in range(1000))
    page = Page(render(compare_found(Found((read_trial(run),), unread)), title="many"))
    assert sum("is left out" in text for text in page.texts) == MOST_CONCERNS
    assert f"The {MOST_CONCERNS} gravest of 1 000 are here." in page.text  # Page makes all white space alike


def test_it_is_written_beside_the_journals_unless_told_otherwise(
    sweep: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write([sweep, run]) == Path("simulation.html")
    assert write(sweep, out=tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "simulation.html"]
    assert write(run) == run / "simulation.html"
    assert "strategy-fedavg_seed-1" in (run / "simulation.html").read_text()
