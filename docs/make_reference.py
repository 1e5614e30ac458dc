"""Writes the parts of the reference that stand in the code already: keys, commands, errors, events.

``python docs/make_reference.py`` brings the pages up to date; a test fails when one is not. Each part lies between two
marks in its page, ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; everything around them is written by hand.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import typer
from rich.text import Text

from edge.fleet.bundle import BundleSource
from edge.fleet.config import Fleet
from edge.fleet.site_config import Site
from edge.home import SiteFile
from edge.policy import Policy
from edge.runner.pod_config import PodConfig
from fl import console, errors
from fl.cli import build
from fl.config import field_docs
from fl.errors import FLError
from fl.report.prices import Prices
from fl.rounds.config import RunConfig
from fl.rounds.events import KINDS
from fl.strategies.registry import STRATEGIES
from fl.tasks import registry
from server.api.config import AccessConfig, OidcConfig
from server.gateway.config import GatewayConfig
from server.home import ServerConfig
from simulations.axes import Sweep
from simulations.devices import AVAILABILITY, DEVICES, LINKS
from simulations.scenario import Scenario, shipped

REFERENCE = Path(__file__).parent / "reference"

FIELDS: Mapping[str, str] = {
    "at": "`sites` or `centre`",
    "attempt": "which try at the round, from 1",
    "because": "why now, in words",
    "clipped": "how many elements of updates were cut at `secagg.clip`",
    "code": "one word for programs, see below",
    "cohort": "who is asked, sorted",
    "config_digest": "SHA-256 of `config.json`",
    "deadline_s": "how long the attempt lasts at most",
    "digest": "SHA-256 of the file",
    "dropped": "sites that were lost on the way to the sum",
    "fedfleet": "version that wrote it",
    "fold_s": "seconds that the fold took",
    "format": "version of the journal's format",
    "host": "name of the machine",
    "landed": "how many updates there are",
    "line": "number of the line",
    "metrics": "means over the examples, by name",
    "missing": "sites of the cohort without an update",
    "model_digest": "SHA-256 of the model that is sent out, or of the one that was made",
    "num_examples": "how many examples are behind it, as sites say",
    "online": "how many sites could have been asked",
    "parameters": "how many numbers the model has",
    "phase": "`initialise`, `train`, `evaluate` or `secagg`",
    "pid": "number of the process",
    "quorum": "how few updates still make the round",
    "reason": "one line for people",
    "receipt_digest": "SHA-256 of the round's receipt",
    "report": "what the training cost: device, precision, samples a second, peak memory, time, CPU time, energy",
    "round": "number of the round, from 1; 0 for the initial model",
    "rounds": "how many rounds are wanted",
    "run": "name of the run",
    "seed": "of the run, or of the round",
    "site": "whose it is",
    "sites": "how many sites answered, 1 for the centre; in `stage_closed`, which",
    "size_bytes": "how large the update is, or what was cut off",
    "source": "a path, or the site that made it",
    "stage": "stage of secure aggregation",
    "state_digests": "SHA-256 of each vector of the strategy's state, by name",
    "status": "`completed`, `failed` or `stopped`",
    "survivors": "whose updates are folded, sorted",
    "waited_s": "seconds from the request to the reply",
    "wanted": "the round closes when so many have answered",
}
"""What each field of an event means; a field that is not here cannot be written down."""

SECONDS: Mapping[str, int] = {
    "first-steps": 2,
    "flaky-links": 1,
    "hostile-sites": 4,
    "night-shift": 4,
    "one-label-each": 2,
    "secure-cohort": 5,
    "skewed-labels": 4,
    "slow-hospitals": 2,
    "thousand-sites": 12,
    "unequal-sizes": 2,
}
"""What a scenario that ships takes, measured; one that is not here cannot be written down."""

WORDS: Mapping[Any, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
    types.NoneType: "",
    Any: "anything",
}


def stale() -> list[Path]:
    """Pages that do not say what the code says."""
    return [path for path, text in _pages() if path.read_text(encoding="utf-8") != text]


def main() -> None:
    """Bring all pages up to date."""
    for path, text in list(_pages()):
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            console.say(f"wrote {path}")


def _pages() -> Iterator[tuple[Path, str]]:
    parts: dict[str, dict[str, Callable[[], str]]] = {
        "run-file.md": {"tables": _run_file, "tasks": _tasks, "strategies": _strategies},
        "scenarios.md": {"shipped": _shipped, "tables": _scenario, "presets": _presets},
        "commands.md": {"commands": _commands},
        "fleet-file.md": {"keys": _fleet_file, "site": _fleet_site, "bundle": _bundle_file},
        "exit-status.md": {"errors": _errors},
        "gateway.md": {"gateway": lambda: _keys(GatewayConfig)},
        "site.md": {"site": lambda: _keys(SiteFile), "policy": _policy},
        "pods-file.md": {"pods": lambda: _keys(PodConfig)},
        "server-file.md": {
            "server": _server_file,
            "access": lambda: _keys(AccessConfig),
            "oidc": lambda: _keys(OidcConfig),
            "prices": lambda: _keys(Prices),
        },
        "journal.md": {"events": _events, "fields": _event_fields},
    }
    for name, made in parts.items():
        text = (REFERENCE / name).read_text(encoding="utf-8")
        for part, make in made.items():
            begin, end = f"<!-- begin {part} -->\n", f"<!-- end {part} -->"
            before, _, rest = text.partition(begin)
            after = rest.partition(end)[2]
            text = f"{before}{begin}\n{make().strip()}\n\n{end}{after}"
        yield REFERENCE / name, text


# ---- the run file ----


def _run_file() -> str:
    return _sections(RunConfig, [field.name for field in dataclasses.fields(RunConfig)])


def _server_file() -> str:
    addresses = next(_key_rows(ServerConfig))  # the one key outside of tables, which comes first
    top = _table(("key", "type", "default", "range", "what it is"), [addresses])
    return f"{top}\n\n{_sections(ServerConfig, ['enrolment', 'control'])}"


def _policy() -> str:
    return _sections(Policy, [field.name for field in dataclasses.fields(Policy)])


def _sections(cls: type, names: Iterable[str]) -> str:
    """A section for each of some tables of a file; a list of tables has two brackets."""
    docs, hints = field_docs(cls), typing.get_type_hints(cls)
    sections = []
    for name in names:
        hint = hints[name]
        heading = f"[[{name}]]" if typing.get_origin(hint) is tuple else f"[{name}]"
        section = f"### `{heading}`\n\n{_one_line(docs[name])}"
        for table in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(table) and table is not Sweep:  # its keys are those of the whole file
                section += f"\n\n{_keys(typing.cast(type, table))}"
        sections.append(section)
    return "\n\n".join(sections)


def _tasks() -> str:
    sections = []
    for name, path in sorted(registry.BUILT_IN.items()):
        module, _, attribute = path.partition(":")
        cls = getattr(__import__(module, fromlist=[attribute]), attribute)
        sections.append(f"### `{name}`\n\n{_one_line(inspect.getdoc(cls) or '')}\n\n{_keys(cls)}")
    return "\n\n".join(sections)


def _strategies() -> str:
    columns = ("strategy", "key", "type", "default", "range", "what it is")
    rows = []
    for name, cls in STRATEGIES.items():
        keys = list(_key_rows(cls)) or [("–", "", "", "", "no options")]
        rows += [(f"`{name}`" if number == 0 else "", *key) for number, key in enumerate(keys)]
    return _table(columns, rows)


def _keys(cls: type) -> str:
    return _table(("key", "type", "default", "range", "what it is"), _key_rows(cls))


def _key_rows(cls: type) -> Iterator[tuple[str, str, str, str, str]]:
    docs, hints, ranges = field_docs(cls), typing.get_type_hints(cls), _ranges(cls)
    for field in dataclasses.fields(cls):
        default = "required" if _is_required(field) else _value(_default(field))
        yield f"`{field.name}`", _type(hints[field.name]), default, ranges.get(field.name, ""), docs[field.name]


def _ranges(cls: type) -> dict[str, str]:
    """What ``__post_init__`` checks with ``check_range`` and ``check_share_or_count``, by key."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "__post_init__" not in vars(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(base)["__post_init__"])))
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or not call.args:
                continue
            name = call.args[0].value if isinstance(call.args[0], ast.Constant) else ""
            key = str(name).rpartition(".")[2]
            if call.func.id == "check_share_or_count":
                found[key] = "a share above 0 and at most 1.0, or a count of at least 1"
            elif call.func.id == "check_range":
                bounds = (f"{_words(word.arg)} {_bound(word.value)}" for word in call.keywords)
                found[key] = ", ".join(bounds) or "finite"
    return found


def _bound(node: ast.expr) -> str:
    return f"`{node.attr}`" if isinstance(node, ast.Attribute) else ast.unparse(node).replace("_", " ")


def _words(name: str | None) -> str:
    return (name or "").replace("_", " ")


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value(value: Any) -> str:
    """A value as TOML writes it; a table's own section has its keys."""
    if dataclasses.is_dataclass(value) or value == {} or (isinstance(value, tuple) and any(map(_is_table, value))):
        return "see below" if value != {} else "empty"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{json.dumps(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _is_table(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


def _type(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(_value(argument) for argument in arguments)
    if dataclasses.is_dataclass(hint):
        return "table"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(filter(None, map(_type, arguments)))
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if origin in (dict, Mapping):
        return f"{_type(arguments[1])}, by name"
    return WORDS[hint]


# ---- scenarios ----


def _scenario() -> str:
    return _sections(Scenario, [field.name for field in dataclasses.fields(Scenario) if field.name != "config"])


def _shipped() -> str:
    columns = ("scenario", "what it teaches", "expected", "sites", "rounds", "seconds")
    rows = []
    for name, path in shipped().items():
        it = Scenario.from_file(path)
        if name not in SECONDS:
            raise ValueError(f"say in SECONDS of {__file__} how long {name} takes")
        expected = ", ".join(f"{figure} {bound}".replace("_", " ") for figure, bound in it.scenario.expect.items())
        sizes = (it.population.sites, it.config.run.rounds, SECONDS[name])
        rows.append((f"`{name}`", it.scenario.teaches, expected, *map(str, sizes)))
    return _table(columns, rows)


def _presets() -> str:
    tables = []
    for kind, presets in (("device", DEVICES), ("link", LINKS)):
        keys = list(dict.fromkeys(key for preset in presets.values() for key in preset))
        rows = [(f"`{name}`", *(_preset(preset.get(key)) for key in keys)) for name, preset in presets.items()]
        tables.append(_table((kind, *keys), rows))
    hours = [(f"`{name}`", *map(str, by_hour)) for name, by_hour in AVAILABILITY.items()]
    tables.append(_table(("availability", *map(str, range(24))), hours))
    return "\n\n".join(tables)


def _preset(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value or "")


# ---- the fleet file ----


def _fleet_file() -> str:
    names = [field.name for field in dataclasses.fields(Fleet) if field.name != "sites"]
    return _plain_sections(Fleet, names)


def _fleet_site() -> str:
    return _keys(Site) + "\n\n" + _plain_sections(Site, ["ssh", "kubernetes", "gpu", "data", "needs"])


def _bundle_file() -> str:
    return _keys(BundleSource) + "\n\n" + _plain_sections(BundleSource, ["images", "helm", "k3s", "snaps"])


def _plain_sections(cls: type, names: Iterable[str]) -> str:
    """A section a key that is a table, or a list of tables, of a YAML file; tables within them follow."""
    hints, docs = typing.get_type_hints(cls), field_docs(cls)
    sections = []
    for name in names:
        for table in (hints[name], *typing.get_args(hints[name])):
            if dataclasses.is_dataclass(table):
                within = [key for key, hint in typing.get_type_hints(table).items() if _has_table(hint)]
                keys = _keys(typing.cast(type, table))
                sections.append(f"### `{name}`\n\n{_one_line(docs[name])}\n\n{keys}")
                if within:
                    sections.append(_plain_sections(typing.cast(type, table), within))
    return "\n\n".join(sections)


def _has_table(hint: Any) -> bool:
    return any(dataclasses.is_dataclass(part) for part in (hint, *typing.get_args(hint)))


# ---- commands ----


def _commands() -> str:
    root = typer.main.get_command(build())
    return "\n\n".join(_command(command, path) for command, path in _walk(root, "fl"))


def _walk(command: click.Command, path: str) -> Iterator[tuple[click.Command, str]]:
    yield command, path
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _walk(command.commands[name], f"{path} {name}")


def _command(command: click.Command, path: str) -> str:
    context = click.Context(command, info_name=path, max_content_width=200)
    pieces = [f"{'#' * (path.count(' ') + 2)} `{path}`", _plain(command.help)]
    if isinstance(command, click.Group):
        subs = sorted(command.commands.items())
        listed = [(f"`{path} {name}`", _plain(sub.help).split("\n", 1)[0]) for name, sub in subs]
        pieces.append(_table(("command", "what it does"), listed))
    else:
        usage = " ".join([path, *command.collect_usage_pieces(context)])
        pieces.append(f"```\n{usage}\n```")
    helps = _helps(command)
    rows = [_parameter(parameter, helps) for parameter in command.params if parameter.name != "help"]
    if rows:
        pieces.append(_table(("argument or option", "default", "what it is"), rows))
    return "\n\n".join(pieces)


def _helps(command: click.Command) -> dict[str | None, str]:
    """The help of each parameter, from the function: newer versions of click lose that of arguments."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True) if command.callback else {}
    said = {name: hint.__metadata__[0].help for name, hint in hints.items() if hasattr(hint, "__metadata__")}
    return {
        parameter.name: said.get(parameter.name or "") or getattr(parameter, "help", None) or ""
        for parameter in command.params
    }


def _parameter(parameter: click.Parameter, helps: Mapping[str | None, str]) -> tuple[str, str, str]:
    is_flag = isinstance(parameter, click.Option) and parameter.is_flag
    names = ", ".join(parameter.opts) if isinstance(parameter, click.Option) else parameter.human_readable_name
    if parameter.param_type_name == "option":
        names = " / ".join([names, *parameter.secondary_opts])
        if not is_flag:
            names += f" {parameter.metavar or _kind(parameter.type)}"
    default = parameter.default
    if parameter.required:
        shown = "required"
    elif is_flag and parameter.secondary_opts:
        shown = f"`{(parameter.opts if default else parameter.secondary_opts)[0]}`"
    else:
        shown = "" if default is None or is_flag else f"`{default}`"
    return f"`{names}`", shown, _plain(helps[parameter.name])


def _kind(kind: Any) -> str:
    return (
        "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else kind.name.upper().removesuffix(" RANGE")
    )


def _plain(help_text: str | None) -> str:
    """A help text without rich's markup."""
    return Text.from_markup(inspect.cleandoc(help_text or "")).plain


# ---- errors and events ----


def _errors() -> str:
    def rows(cls: type[FLError], depth: int) -> Iterator[tuple[str, str, str]]:
        name = f"{'&nbsp;' * 4 * depth}`{cls.__name__}`"
        meaning = "any error below" if cls is FLError else _one_line(inspect.getdoc(cls) or "")
        yield name, str(cls.exit_status), meaning
        for sub in cls.__subclasses__():
            if sub.__module__ == errors.__name__:
                yield from rows(sub, depth + 1)

    return _table(("class", "status", "what happened"), rows(FLError, 0))


def _events() -> str:
    rows = []
    for kind, cls in KINDS.items():
        names = ", ".join(f"`{field.name}`" for field in dataclasses.fields(cls))
        rows.append((f"`{kind}`", _one_line(inspect.getdoc(cls) or ""), names))
    return _table(("event", "what it says", "fields"), rows)


def _event_fields() -> str:
    kinds: dict[str, dict[str, None]] = {}  # a field may have another type in another event
    for cls in KINDS.values():
        for name, hint in typing.get_type_hints(cls).items():
            kinds.setdefault(name, {})[_type(hint)] = None
    if unsaid := kinds.keys() - FIELDS.keys():
        raise ValueError(f"say in FIELDS of {__file__} what these are: {', '.join(sorted(unsaid))}")
    rows = [(f"`{name}`", " or ".join(kinds[name]), FIELDS[name]) for name in sorted(kinds)]
    return _table(("field", "type", "what it is"), rows)


# ---- Markdown ----


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(
        f"| {' | '.join(_one_line(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


if __name__ == "__main__":
    main()
