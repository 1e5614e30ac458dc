"""Finding tasks by name."""

import sys
import textwrap

import pytest

from fl.errors import ConfigError, TaskError
from fl.tasks import Task, available, create
from fl.tasks.digits import Digits

OWN = """
    from dataclasses import dataclass
    from pathlib import Path

    from fl.tasks import Task

    @dataclass(frozen=True)
    class Mine(Task):
        '''Mine.'''
        hidden: int = {hidden}
        file: Path | None = None

        def model(self): ...
        def train_data(self, site): ...
        def evaluation_data(self, site): ...

    @dataclass(frozen=True)
    class Half(Task):
        def model(self): ...

    class Plain(Mine):
        width: int = 3
"""


THERE = "the module has own_task_here:Mine, own_task_here:Half, own_task_here:Plain"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module ``own_task_here`` in it, forgotten afterwards."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    write(tmp_path, hidden=32)
    yield tmp_path
    sys.modules.pop("own_task_here", None)


def write(folder, hidden):
    (folder / "own_task_here.py").write_text(textwrap.dedent(OWN.format(hidden=hidden)))


def test_a_built_in_task_takes_its_options():
    assert create("digits", {"network": "mlp", "hidden": 16}) == Digits(network="mlp", hidden=16)


def test_each_built_in_task_says_in_one_line_what_it_is():
    assert set(available()) == {"digits", "images", "tabular"}
    assert all(line.endswith(".") and "\n" not in line for line in available().values())


def test_a_misspelt_task_names_the_right_one():
    with pytest.raises(ConfigError, match="unknown task digitz") as caught:
        create("digitz", {})
    assert caught.value.hint == "did you mean digits?"


def test_an_unknown_task_lists_what_there_is_and_how_to_name_ones_own():
    with pytest.raises(ConfigError) as caught:
        create("protein", {})
    assert caught.value.hint == "known: digits, images, tabular; your own is written my_module:MyTask"


@pytest.mark.parametrize(
    ("name", "options", "message", "hint"),
    [
        ("digits", {"hiddenn": 3}, "unknown key task.hiddenn", "did you mean task.hidden?"),
        ("digits", {"hidden": 0}, "task.hidden is 0, must be at least 1", None),
        ("digits", {"hidden": "many"}, "task.hidden is 'many', must be a whole number", None),
        ("digits", {"network": "cnnn"}, "task.network is 'cnnn', which is none of its values", "did you mean cnn?"),
        ("tabular", {"columns": ["a"]}, "task.target is missing", "The column to predict"),
        (
            "tabular",
            {"target": "a", "columns": []},
            "task.columns is empty",
            'name at least one: columns = ["age", "weight"]',
        ),
        ("tabular", {"target": "a", "columns": ["b", "b"]}, "task.columns names b twice", None),
        ("tabular", {"target": "a", "columns": ["b", "a"]}, "task.columns names a, which is the target", None),
        ("tabular", {"target": "a", "columns": ["b"], "classes": [1, 1.0]}, "task.classes names 1 twice", None),
        (
            "tabular",
            {"target": "a", "columns": ["b"], "classes": ["x"]},
            "task.classes names only x",
            "name two, or none to predict a number",
        ),
        ("tabular", {"target": "a", "columns": ["b"], "hidden": [8, 0]}, "task.hidden is 0, must be at least 1", None),
        (
            "tabular",
            {"target": "a", "columns": ["b"], "separator": "||"},
            "task.separator is '||', must be one character",
            None,
        ),
        (
            "tabular",
            {"target": "a", "columns": ["b"], "target_std": 0.0},
            "task.target_std is 0.0, must be above 0",
            None,
        ),
        ("images", {"size": 4}, "task.size is 4, must be at least 8", None),
        ("images", {"channels": 2}, "task.channels is 2, which is none of its values", "known: 1, 3"),
        ("images", {"width": 12}, "task.width is 12, must be a multiple of 8", None),
        ("images", {"classes": ["a", "a"]}, "task.classes names a class twice", None),
        ("images", {"classes": ["a"]}, "task.classes names only a", "name two at least"),
        ("images", {"classes": ["a", "../b"]}, "task.classes names '../b', which is not the name of a folder", None),
        ("images", {"classes": ["a", ".."]}, "task.classes names '..', which is not the name of a folder", None),
    ],
)
def test_options_that_do_not_fit_are_refused_by_their_key(name, options, message, hint):
    with pytest.raises(ConfigError) as caught:
        create(name, options)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_ones_own_task_is_found_beside_the_run_file(folder):
    task = create("own_task_here:Mine", {"hidden": 8}, search_path=folder)
    assert isinstance(task, Task)
    assert task.hidden == 8


def test_a_relative_path_among_the_options_starts_at_the_run_file(folder):
    assert create("own_task_here:Mine", {"file": "x.csv"}, search_path=folder).file == folder / "x.csv"
    assert create("own_task_here:Mine", {"file": "/x.csv"}, search_path=folder).file.as_posix() == "/x.csv"


def test_two_run_files_may_have_modules_of_the_same_name(folder):
    assert create("own_task_here:Mine", {}, search_path=folder).hidden == 32
    other = folder / "other"
    other.mkdir()
    write(other, hidden=64)
    assert create("own_task_here:Mine", {}, search_path=other).hidden == 64
    assert create("own_task_here:Mine", {}, search_path=folder).hidden == 32


def test_the_same_module_is_not_imported_twice(folder):
    once, again = (create("own_task_here:Mine", {}, search_path=folder) for _ in range(2))
    assert type(once) is type(again)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        (
            "nowhere:Mine",
            "cannot import the task nowhere:Mine: No module named 'nowhere'",
            "is nowhere.py in {folder}?",
        ),
        ("own_task_here:Nothing", "own_task_here:Nothing is not a class derived from fl.tasks.Task", THERE),
        ("own_task_here:Path", "own_task_here:Path is not a class derived from fl.tasks.Task", THERE),
        ("own_task_here:Half", "the task own_task_here:Half lacks evaluation_data, train_data", None),
        (
            "own_task_here:Plain",
            "the task own_task_here:Plain has options but is no dataclass",
            "put @dataclass(frozen=True) above it",
        ),
    ],
)
def test_a_class_that_is_no_whole_task_is_refused(folder, name, message, hint):
    with pytest.raises(TaskError) as caught:
        create(name, {}, search_path=folder)
    assert caught.value.message == message
    assert caught.value.hint == (hint and hint.format(folder=folder))


def test_what_a_module_raises_while_it_is_imported_is_told(folder):
    (folder / "own_task_here.py").write_text("1 / 0")
    with pytest.raises(
        TaskError, match="cannot import the task own_task_here:Mine: ZeroDivisionError: division by zero"
    ):
        create("own_task_here:Mine", {}, search_path=folder)


def test_a_file_with_the_name_of_a_python_module_is_refused(folder):
    (folder / "random.py").write_text("")
    with pytest.raises(TaskError, match="has the name of a module of Python itself"):
        create("random:Mine", {}, search_path=folder)


def test_a_task_without_a_data_side_says_that_it_cannot_be_divided(folder):
    task = create("own_task_here:Mine", {}, search_path=folder)
    for divide in (lambda: task.labels(None), lambda: task.write_shard(None, [], folder)):
        with pytest.raises(TaskError, match="the task Mine cannot divide data among sites"):
            divide()
