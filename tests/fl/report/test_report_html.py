from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from pathlib import Path

import pytest

import fl.report
from fl.report import timeline, view
from fl.report.facts import Facts
from fl.report.gather import gather
from fl.report.page import render
from tests.fl.report.html_page import Page
from tests.fl.report.journals import failing, journal, killed_in_round_two
from tests.fl.rounds.simulator import SimulatedSite, federation

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> Facts:
    sites = federation(
        5, site_2=failing("the disk is full", rounds=(2,)), site_3=SimulatedSite(silent=True, num_examples=7)
    )
    directory = tmp_path_factory.mktemp("run") / "run"
    return gather(
        journal(directory, sites, evaluation={"sites_every": 2, "centre_every": 1}, round={"deadline_s": 20.0})
    )


def test_the_page_says_what_happened(facts: Facts) -> None:
    text = Page(render(facts)).text
    for words in (
        "test completed",
        "3 of 3",
        "1 site never took part in a model: site-3",
        "the disk is full",
        "no answer by the deadline of 20 s",
        "mend the task or the data at the site",
        "How long an attempt lasts at most",
        facts.run.model_digest,
    ):
        assert words in text


def test_elements_are_closed_ids_are_unique_and_links_lead_somewhere(facts: Facts) -> None:
    page = Page(render(facts))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    linked = {str(attributes["href"]).removeprefix("#") for attributes in page.of("a")}
    assert named | linked <= set(ids)


def test_pictures_are_named_or_hidden_and_headings_of_tables_have_a_scope(facts: Facts) -> None:
    page = Page(render(facts))
    assert all("aria-label" in svg or svg.get("aria-hidden") == "true" for svg in page.of("svg"))
    assert all(cell.get("scope") in ("row", "col") for cell in page.of("th"))
    assert all(
        region.get("aria-label") and region.get("tabindex") == "0"
        for region in page.of("div")
        if region.get("role") == "region"
    )


def test_the_page_asks_for_nothing_from_anywhere(facts: Facts) -> None:
    html = render(facts)
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    for name in ("src", "srcset", "action", "style", "onclick", "onload", "onerror"):
        assert not [tag for tag, attributes in page.elements if name in attributes]
    assert not page.of("link")


def test_only_the_pages_own_script_may_run(facts: Facts) -> None:
    page = Page(render(facts))
    (policy,) = [str(meta["content"]) for meta in page.of("meta") if "http-equiv" in meta]
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_what_sites_and_run_files_say_is_text(tmp_path: Path) -> None:
    sites = federation(3, site_2=failing(ATTACK))
    sites["<b>bold"] = SimulatedSite()
    directory = journal(tmp_path / "run", sites, task={"name": ATTACK, "<i>": ["</script>"]})
    html = render(gather(directory))
    page = Page(html)
    assert not page.of("img")
    assert "<b>bold" in page.text
    assert "<i>" in page.text
    assert html.count("<script>") == 1
    assert html.count("</script>") == len(page.of("script"))
    assert ATTACK in page.text


def test_a_damaged_update_and_a_killed_server_are_on_the_page(tmp_path: Path) -> None:
    text = Page(render(gather(killed_in_round_two(tmp_path / "run", spoil=True)))).text
    assert "1 update changed on the server's disk after landing" in text
    assert "The server was killed once and continued" in text
    assert "without a word: killed" in text


def test_a_failed_run_can_be_continued_with_what_the_page_says(tmp_path: Path) -> None:
    silent = {f"site-{i}": SimulatedSite(silent=True) for i in (2, 3, 4)}
    directory = journal(tmp_path / "run", {**federation(), **silent}, round={"quorum": 3, "deadline_s": 5.0})
    text = Page(render(gather(directory))).text
    assert f"fl run resume {directory}" in text
    assert "Nothing was measured yet" in text


def grown(facts: Facts, num_rounds: int, num_sites: int) -> Facts:
    """The same run with as many rounds and sites."""
    first, summary = facts.rounds[0], facts.sites[1]
    names = [f"hospital-{i:04d}" for i in range(num_sites)]
    pattern = [a for a in first.answers if a.site in ("site-1", "site-2")]
    answers = [dataclasses.replace(pattern[i % len(pattern)], site=name) for i, name in enumerate(names)]
    rounds = tuple(
        dataclasses.replace(first, number=n, cohort=num_sites, survivors=num_sites, answers=tuple(answers))
        for n in range(1, num_rounds + 1)
    )
    outcomes = {n: "failed" if n % 7 == 0 else "answered" for n in range(1, num_rounds + 1)}
    sites = tuple(dataclasses.replace(summary, name=name, outcomes=outcomes) for name in names)
    return dataclasses.replace(facts, rounds=rounds, sites=sites)


@pytest.mark.parametrize(("num_rounds", "num_sites"), [(1000, 100), (3, 5000), (5000, 10)])
def test_a_large_run_fits_on_a_page_that_says_what_is_left_out(facts: Facts, num_rounds: int, num_sites: int) -> None:
    html = render(grown(facts, num_rounds, num_sites))
    assert len(html) < 4_000_000
    text = Page(html).text
    if num_rounds > view.MOST_ROUNDS:
        assert "The newest 1 000 of 5 000 rounds are here." in text
    if num_sites > view.MOST_SITES:
        assert "The 500 of 5 000 sites with the most trouble are here." in text
        assert "4 000 more sites" in text
    if num_rounds * num_sites > timeline.MOST_LANES:
        assert re.search("The newest .* rounds are here", text)


def test_the_timeline_of_a_huge_round_shows_those_with_trouble_first(facts: Facts) -> None:
    (entry,) = grown(facts, 1, timeline.MOST_LANES_A_ROUND + 500).rounds
    broken = dataclasses.replace(entry.answers[-1], outcome="failed", reason="broken", site="zzz")
    shown = timeline.timeline(dataclasses.replace(entry, answers=(*entry.answers[:-1], broken)))
    assert shown.lanes[0].site == "zzz"
    assert shown.hidden == 500


def test_a_strip_has_a_cell_for_each_round(facts: Facts) -> None:
    strips = {site.name: view.strip(site, facts.rounds).letters for site in facts.sites}
    assert strips == {"site-1": "aaa", "site-2": "afa", "site-3": "sss", "site-4": "aaa", "site-5": "aaa"}


def test_write_replaces_the_page_as_a_whole(tmp_path: Path) -> None:
    directory = journal(tmp_path / "run", rounds=1)
    assert fl.report.write(directory) == directory / "report.html"
    before = (directory / "report.html").read_text()
    assert fl.report.write(directory, out=tmp_path / "other.html") == tmp_path / "other.html"
    assert before.startswith("<!doctype html>")
    assert not list(tmp_path.rglob("*.part"))
