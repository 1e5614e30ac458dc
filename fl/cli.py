"""The ``fl`` command: finds its sub-commands through entry points, and turns errors into lines and exit statuses.

A sub-command is an entry point of the group ``fl.commands``: a typer app (a group of commands) or a function (one
command). So an install without ``server`` or ``edge`` has fewer commands and no broken ones. What stands before a dot
in an entry point's name is the command's: ``site.edge`` and ``site.server`` both bring commands of ``fl site``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from typing import Annotated, Any

import click
import typer

from fl import console
from fl.errors import FLError, InputError, StorageError

# Dependencies neither phone home nor look for updates, in this process and in those that it starts.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

INTERRUPTED = 130


def build(entries: tuple[importlib.metadata.EntryPoint, ...] | None = None) -> typer.Typer:
    """The command with all sub-commands that this install has, or those of some entry points."""
    app = typer.Typer(
        name="fl",
        help="Federated learning across Kubernetes edge sites.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
    ) -> None:
        """Federated learning across Kubernetes edge sites."""

    groups: dict[str, typer.Typer] = {}
    for entry in _entries() if entries is None else entries:
        try:
            command: Any = entry.load()
        except ModuleNotFoundError as err:
            if err.name and err.name.split(".")[0] == entry.module.split(".")[0]:
                continue  # that package is not part of this install
            raise
        name = entry.name.partition(".")[0]
        if not isinstance(command, typer.Typer):
            app.command(name=name)(command)
        elif name in groups:
            groups[name].registered_commands += command.registered_commands
            groups[name].registered_groups += command.registered_groups
        else:
            groups[name] = _copy(command)
            app.add_typer(groups[name], name=name)
    return app


def _entries() -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(sorted(importlib.metadata.entry_points(group="fl.commands"), key=lambda entry: entry.name))


def _wanted(arguments: list[str]) -> tuple[importlib.metadata.EntryPoint, ...]:
    """The entry points of the sub-command that is called; all of them for help, and for a word that is none.

    Importing what nobody called would take longer than some commands.
    """
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    named = tuple(entry for entry in _entries() if entry.name.partition(".")[0] == word)
    return named or _entries()


@functools.lru_cache(maxsize=4)
def _command(entries: tuple[importlib.metadata.EntryPoint, ...]) -> click.Command:
    """The command of these entry points; put together once a process, because that takes a tenth of a second."""
    return typer.main.get_command(build(entries))


def _copy(group: typer.Typer) -> typer.Typer:
    """A group with the same commands, to which those of other packages can be added."""
    copied = typer.Typer(no_args_is_help=True)
    copied.info, copied.registered_callback = group.info, group.registered_callback
    copied.registered_commands, copied.registered_groups = [*group.registered_commands], [*group.registered_groups]
    return copied


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with the status of its class of outcome."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command and return its exit status: 0, or that of the error (see ``fl.errors``)."""
    as_json = "--json" in arguments
    verbose = "--verbose" in arguments
    # --verbose is accepted anywhere, because that is where one adds it: at the end of the last line.
    arguments = (["--verbose"] if verbose else []) + [word for word in arguments if word != "--verbose"]
    try:
        result = _command(_wanted(arguments)).main(arguments, prog_name="fl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except FLError as error:
        if verbose:
            console.err.print_exception()
        console.report_error(error, as_json=as_json)
        return error.exit_status
    except click.exceptions.NoArgsIsHelpError as error:
        console.out.print(error.format_message(), markup=False)
        return 2
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "fl"
        console.report_error(
            _as_fl_error(error.format_message(), f"{command} --help lists what there is"), as_json=as_json
        )
        return 2
    except (KeyboardInterrupt, click.Abort):
        console.say("fl: interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        if verbose:
            console.err.print_exception()
        console.report_error(StorageError(f"{error.strerror}: {error.filename or ''}".rstrip(": ")), as_json=as_json)
        return StorageError.exit_status


def _as_fl_error(message: str, hint: str) -> FLError:
    """An error of the command line's own parser, in our shape; what it suggests becomes the hint."""
    message, _, suggestion = message.partition("Did you mean ")
    if suggestion:
        hint = f"did you mean {suggestion.split('?')[0].strip()}?"
    message = message.strip().rstrip(".")
    return InputError(message[:1].lower() + message[1:], hint=hint)


if __name__ == "__main__":
    main()
