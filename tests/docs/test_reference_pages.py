"""The reference says what the code says."""

import dataclasses
import re
import tomllib

import pytest

from docs import make_reference
from fl import errors
from fl.config import field_docs
from fl.flower.grid import FAILURES
from fl.rounds.config import RunConfig, options
from fl.strategies.registry import STRATEGIES, create
from fl.tasks import registry
from simulations import Scenario
from tests.docs import pages


def test_the_generated_parts_are_fresh():
    assert not make_reference.stale(), "run python docs/make_reference.py"


def test_a_change_of_the_code_makes_a_page_stale(monkeypatch):
    monkeypatch.setitem(make_reference.FIELDS, "site", "something else")
    assert [path.name for path in make_reference.stale()] == ["journal.md"]


def test_an_event_field_without_a_meaning_is_refused(monkeypatch):
    monkeypatch.delitem(make_reference.FIELDS, "site")
    with pytest.raises(ValueError, match="what these are: site"):
        make_reference.stale()


def test_every_key_of_a_run_file_has_a_docstring():
    for field in dataclasses.fields(RunConfig):
        assert field.name in field_docs(RunConfig)


def test_every_exit_status_is_in_the_table():
    page = pages.read("docs/reference/exit-status.md")
    in_table = {int(status) for status in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.FLError)]
    assert {cls.exit_status for cls in classes} | {0, 130} <= in_table


def test_every_code_of_a_failed_reply_is_documented():
    sources = [
        path.read_text() for folder in ("rounds", "flower") for path in (pages.ROOT / "fl" / folder).glob("*.py")
    ]
    said = re.compile(r'(?:UnusableError\(|code=)"(\w+)"')
    codes = {code for source in sources for code in said.findall(source)} | set(FAILURES.values())
    assert "not_finite" in codes
    page = pages.read("docs/reference/journal.md")
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []


def tables():
    """Every TOML block of the documentation that is a whole run file or scenario."""
    return [
        pytest.param(tomllib.loads(text), id=f"{page}-{number}")
        for page in pages.pages()
        for number, text in enumerate(pages.fences(page, "toml"))
        if "[task]" in text
    ]


@pytest.mark.parametrize("table", tables())
def test_each_run_file_in_the_documentation_is_one(table):
    config = Scenario.from_dict(table).config
    if ":" not in config.task["name"]:
        registry.create(config.task["name"], options(config.task))
    if ":" not in config.strategy["name"]:
        create(config.strategy["name"], options(config.strategy))


def test_the_strategies_page_has_every_strategy_with_its_defaults():
    page = pages.read("docs/reference/strategies.md")
    for name, cls in STRATEGIES.items():
        section = page.partition(f"### `{name}`")[2].partition("\n### ")[0]
        documented = dict(re.findall(r"^\| `(\w+)` \| (\S*) ?\|", section, re.MULTILINE))
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        assert documented.keys() == fields.keys(), name
        for key, default in fields.items():
            assert documented[key] == ("" if default is None else str(default).lower()), f"{name}.{key}"
