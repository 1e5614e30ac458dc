from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.config import check_range, check_share_or_count, field_docs, load, read_toml, share_or_count, to_dict
from fl.errors import ConfigError
from fl.rounds.config import RunConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """A sub-table."""

    depth: int = 1
    """How deep."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """A table."""

    name: str
    """What it is called. More of it."""

    share: int | float = 1.0
    """A share or a count."""

    colour: Literal["red", "green"] = "red"
    """One of two."""

    path: Path | None = None
    """Somewhere."""

    names: tuple[str, ...] = ()
    """Several."""

    on: bool = False
    """A switch."""

    inner: Inner = dataclasses.field(default_factory=Inner)
    """Below."""


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"nmae": "x"}, "unknown key t.nmae", "did you mean t.name?"),
        ({"name": "x", "zebra": 1}, "unknown key t.zebra", "known: t.colour"),
        ({}, "t.name is missing", "What it is called. More of it"),
        ({"name": 3}, "t.name is 3, must be a text", None),
        ({"name": "x", "share": "half"}, "t.share is 'half', must be a whole number or a number", None),
        ({"name": "x", "share": True}, "t.share is True", None),
        ({"name": "x", "colour": "gren"}, "t.colour is 'gren', which is none of its values", "did you mean green?"),
        ({"name": "x", "names": "one"}, "t.names is 'one', must be a list", None),
        ({"name": "x", "names": ["one", 2]}, "t.names[1] is 2, must be a text", None),
        ({"name": "x", "on": 1}, "t.on is 1, must be true or false", None),
        ({"name": "x", "inner": 1}, "t.inner is 1, must be a table", None),
        ({"name": "x", "inner": {"dept": 2}}, "unknown key t.inner.dept", "did you mean t.inner.depth?"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_key_and_the_right_one(
    values: dict[str, Any], message: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Outer, values, table="t")
    assert message in caught.value.message
    assert (hint or "") in (caught.value.hint or "")


def test_a_whole_number_stays_a_count_and_a_decimal_a_share() -> None:
    assert load(Outer, {"name": "x", "share": 1}).share == 1
    assert isinstance(load(Outer, {"name": "x", "share": 1}).share, int)
    assert isinstance(load(Outer, {"name": "x", "share": 1.0}).share, float)


@given(
    st.fixed_dictionaries(
        {"name": st.text(min_size=1)},
        optional={
            "share": st.integers(1, 9) | st.floats(0.1, 1),
            "names": st.lists(st.text()),
            "on": st.booleans(),
            "path": st.sampled_from(["a", "b/c"]),
            "inner": st.fixed_dictionaries({"depth": st.integers()}),
        },
    )
)
def test_a_config_written_down_and_read_back_is_the_same(values: dict[str, Any]) -> None:
    config = load(Outer, values)
    assert load(Outer, to_dict(config)) == config


def test_the_run_file_written_down_and_read_back_is_the_same() -> None:
    config = RunConfig.from_dict({"task": {"name": "digits"}, "secagg": {}, "round": {"cohort": 3}})
    assert RunConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"run": {"rounds": 0}}, "run.rounds is 0, must be at least 1"),
        ({"run": {"name": "a/b"}}, "run.name is 'a/b'"),
        ({"round": {"cohort": 0.0}}, "round.cohort is 0.0, must be above 0"),
        ({"round": {"cohort": 1.5}}, "round.cohort is 1.5, must be at most 1"),
        ({"round": {"quorum": 0}}, "round.quorum is 0, must be at least 1"),
        ({"round": {"deadline_s": -1.0}}, "round.deadline_s is -1.0, must be above 0"),
        ({"round": {"deadline_s": "soon"}}, "round.deadline_s is 'soon'"),
        ({"round": {"deadline_max_s": 1.0}}, "round.deadline_max_s is 1.0, must be at least 120.0"),
        ({"training": {"epochs": 0}}, "training.epochs is 0"),
        ({"secagg": {"profile": "standart"}}, "standart"),
        ({"secagg": {"clip": 0.0}}, "secagg.clip is 0.0, must be above 0"),
        ({"journal": {"keep_models": 0}}, "journal.keep_models is 0"),
        ({"strategy": {"name": ""}}, "strategy.name is missing"),
        ({"evaluation": {"sites_every": -1}}, "evaluation.sites_every is -1"),
        ({"rond": {}}, "unknown key rond"),
    ],
)
def test_a_run_file_with_a_value_out_of_range_is_refused(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict({"task": {"name": "digits"}, **tables})
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[run\n", "is not TOML"), (b"\xff\xfe", "cannot read")],
)
def test_a_file_that_is_no_toml_is_refused_with_its_path(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_toml(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="must be a finite number"):
        check_range("x", value, at_least=0)


@given(st.integers(1, 10_000), st.floats(0.001, 1.0))
def test_a_share_of_sites_is_at_least_one_and_at_most_all(whole: int, share: float) -> None:
    check_share_or_count("x", share)
    assert 1 <= share_or_count(share, whole) <= whole
    assert share_or_count(1.0, whole) == whole


def test_the_text_under_each_key_is_its_documentation() -> None:
    assert field_docs(Outer)["colour"] == "One of two."
    assert set(field_docs(Inner)) == {"depth"}
