"""Links lead somewhere, commands exist, and every example has its row."""

import re

import pytest

from tests.docs import pages

KNOWN = pages.commands()


@pytest.mark.parametrize("page", pages.pages())
def test_every_link_leads_somewhere(page):
    dead = []
    for target, anchor in pages.links(page):
        path = (pages.ROOT / page).parent / target if target else pages.ROOT / page
        if not path.exists() or (anchor and anchor not in pages.anchors(path.relative_to(pages.ROOT))):
            dead.append(f"{target}#{anchor}")
    assert dead == []


@pytest.mark.parametrize("page", pages.pages())
def test_every_command_and_option_exists(page):
    wrong = [(line, fault) for line in pages.command_lines(page) for fault in pages.faults(line, KNOWN)]
    assert wrong == []


def test_a_command_or_option_that_does_not_exist_is_found():
    assert pages.faults("fl run begin run.toml", KNOWN) == ["no command begin in fl run"]
    assert pages.faults("fl run start run.toml --home x --json", KNOWN) == []
    assert pages.faults("fl demo --round 5", KNOWN) == ["fl demo has no --round"]


def test_every_page_is_in_the_index():
    index = {(pages.ROOT / "docs" / target).resolve() for target, _ in pages.links("docs/README.md")}
    own = [page for page in pages.pages() if page.startswith(("docs/tutorials/", "docs/how-to/", "docs/reference/"))]
    assert [page for page in own if (pages.ROOT / page).resolve() not in index] == []


def test_every_example_has_a_page_and_a_row_in_the_readme():
    rows = pages.read("README.md")
    for run_file in sorted((pages.ROOT / "examples").glob("*/run.toml")):
        assert run_file.with_name("README.md").is_file()
        assert f"examples/{run_file.parent.name}/" in rows


@pytest.mark.parametrize("page", pages.pages())
def test_no_path_of_somebodys_machine_is_in_a_page(page):
    assert re.findall(r"/(?:tmp|work|root)/\S*", pages.read(page)) == []
