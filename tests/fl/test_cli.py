from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fl import cli, errors


def test_every_error_class_has_a_status_and_a_line_of_its_tree() -> None:
    tree = errors.__doc__ or ""
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.FLError)]
    assert len(classes) > 8
    for cls in classes:
        assert cls.__name__ in tree, f"{cls.__name__} is not in the tree of fl/errors.py"
        line = next(line for line in tree.splitlines() if f" {cls.__name__} " in f" {line} ")
        if any(digit in line for digit in "12345"):
            assert str(cls.exit_status) in line


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["version"], 0, "fedfleet"),
        (["--help"], 0, "Federated learning"),
        ([], 2, "Commands"),
        (["nonsense"], 2, "fl: error: no such command 'nonsense'"),
        (["run", "strat"], 2, "fl: hint: did you mean 'start'?"),
        (["version", "--jsno"], 2, "did you mean '--json'?"),
        (["report", "/nonexistent"], 2, "is not a journal"),
    ],
)
def test_commands_end_with_the_status_of_their_outcome(
    arguments: list[str], status: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == status
    captured = capfd.readouterr()
    said = " ".join((captured.out + captured.err).split())
    assert words in said
    assert "Traceback" not in said


def test_an_error_is_one_json_document_where_json_was_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", "/nonexistent", "--json"]) == 2
    facts = json.loads(capfd.readouterr().out)
    assert facts["class"] == "JournalError"
    assert facts["exit_status"] == 2
    assert facts["hint"]


def test_verbose_adds_the_traceback_wherever_it_stands(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", "/nonexistent", "--verbose"]) == 2
    assert "Traceback" in capfd.readouterr().err


def test_version_names_flower_torch_and_cuda(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["version", "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert {"fedfleet", "python", "flwr", "torch", "cuda", "device"} == facts.keys()
    assert facts["flwr"].startswith("1.41")


class EntryPoint:
    """An entry point of a package that is, or is not, part of the install."""

    def __init__(self, name: str, module: str, command: object) -> None:
        self.name, self.module, self._command = name, module, command

    def load(self) -> object:
        if isinstance(self._command, Exception):
            raise self._command
        return self._command


def use(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr(cli.importlib.metadata, "entry_points", lambda group: list(entries))


def test_a_package_that_is_absent_has_no_commands_and_breaks_none(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def there() -> None:
        typer.echo("here")

    absent = ModuleNotFoundError("no module named edge", name="edge")
    use(monkeypatch, EntryPoint("site", "edge.commands", absent), EntryPoint("up", "server.up", there))
    assert cli.run(["up"]) == 0
    assert "here" in capfd.readouterr().out
    assert cli.run(["site"]) == 2


def test_a_package_that_is_broken_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ModuleNotFoundError("no module named numpy", name="numpy")
    use(monkeypatch, EntryPoint("up", "server.up", broken))
    with pytest.raises(ModuleNotFoundError):
        cli.run(["up"])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.FLError("no"), 1),
        (errors.ConfigError("no"), 2),
        (errors.TooFewSitesError("no"), 3),
        (errors.SitesError("no"), 3),
        (errors.UnreachableError("no"), 4),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "/data/x"), 1),
    ],
)
def test_each_outcome_has_its_status(monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int) -> None:
    def fail() -> None:
        raise error

    use(monkeypatch, EntryPoint("fail", "here", fail), EntryPoint("other", "here", lambda: None))
    assert cli.run(["fail"]) == status


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    use(monkeypatch, EntryPoint("bug", "here", bug), EntryPoint("other", "here", lambda: None))
    with pytest.raises(ZeroDivisionError):
        cli.run(["bug"])


SERVER_WITHOUT_TORCH = """
import sys
from pathlib import Path
sys.modules["torch"] = None
import fl.cli, fl.flower.server_app, fl.report, server.commands.run, server.commands.federation, edge.commands
from fl.rounds.config import RunConfig
RunConfig.from_dict({"task": {"name": "digits"}})
sys.exit(fl.cli.run(["--help"]) or fl.cli.run(["task", "list"]))
"""


def test_a_server_without_torch_has_all_its_commands() -> None:
    done = subprocess.run([sys.executable, "-c", SERVER_WITHOUT_TORCH], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("fl ru", {"run"}),
        ("fl run ", {"start", "resume", "list", "show", "log", "stop"}),
        ("fl run start --de", {"--detach"}),
    ],
)
def test_the_shell_completes_commands_and_options(words: str, offered: set[str]) -> None:
    asked = {"_FL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    fl = str(Path(sys.executable).with_name("fl"))
    done = subprocess.run([fl], env={**os.environ, **asked}, capture_output=True, text=True, timeout=110)
    assert offered <= set(done.stdout.split()), done.stderr
