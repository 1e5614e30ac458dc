"""``fl task``: the tasks that there are, and one of them trained on this machine, without a federation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fl import console
from fl.errors import ConfigError
from fl.rounds.config import RunConfig, options
from fl.tasks import Site, Task, TrainingConfig, available, create
from fl.tasks.loop import CentralResult, centralised

app = typer.Typer(no_args_is_help=True, help="List tasks, or train one on this machine to check it.")

EPOCHS = 10
"""Passes over the data unless ``--epochs`` says otherwise; a run file's epochs are those of one round."""


@app.command("list")
def list_tasks(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the built-in tasks."""
    tasks = available()
    if as_json:
        console.print_json(tasks)
        return
    console.print_table(["task", "what it is"], tasks.items())
    console.say("A task of your own is named my_module:MyTask; see docs/how-to/write-a-task.md")


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="A task's name, my_module:MyTask, or a run file (.toml).")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = EPOCHS,
    data: Annotated[Path | None, typer.Option(help="A site's data directory.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random hangs on it.")] = 1,
    device: Annotated[str | None, typer.Option(help="cuda, xpu, mps or cpu; by default the first there is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a task centrally, on all its data at once, and evaluate it: the way to check a task before a run."""
    the_task, training = _read(task)
    if device is not None:
        training = dataclasses.replace(training, device=device)  # type: ignore[arg-type]  # ``choose`` refuses others
    if data is not None and not data.is_dir():
        raise ConfigError(f"there is no directory {data}")
    with Progress(
        TextColumn("training {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("batches"),
        TimeRemainingColumn(),
        console=console.err,
        transient=True,
        disable=as_json or not console.err.is_terminal,
    ) as bars:
        bar = bars.add_task(task, total=None)
        result = centralised(
            the_task,
            training,
            epochs=epochs,
            seed=seed,
            site=Site("local", data_dir=data),
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    if as_json:
        console.print_json(_facts(result))
    else:
        _print(result)


def _read(name: str) -> tuple[Task, TrainingConfig]:
    """The task and the ``[training]`` table of a run file, or the task of that name with default options."""
    if not name.endswith(".toml"):
        return create(name, {}, search_path=Path.cwd()), TrainingConfig()
    path = Path(name)
    config = RunConfig.from_file(path)
    task = create(config.task["name"], options(config.task), search_path=path.parent)
    return task, config.training


def _facts(result: CentralResult) -> dict[str, Any]:
    return {
        "training": {"num_examples": result.training.num_examples, **result.training.metrics},
        "evaluation": {"num_examples": result.num_examples, **result.metrics},
        "report": dataclasses.asdict(result.training.report),
    }


def _print(result: CentralResult) -> None:
    rows = [(name, f"{result.training.metrics[name]:.4g}", f"{result.metrics[name]:.4g}") for name in result.metrics]
    counts = ("examples", str(result.training.num_examples), str(result.num_examples))
    console.print_table(["", "training, last epoch", "evaluation"], [counts, *rows])
    report = result.training.report
    words = [
        f"{report.device} in {report.precision}",
        f"{report.samples_per_s:,.0f} examples/s",
        console.human_seconds(report.wall_s),
        f"{console.human_bytes(report.peak_memory_bytes)} of memory at most",
    ]
    if report.energy_j is not None:
        words.append(f"{report.energy_j:.0f} J")
    if report.out_of_memory:
        words.append(f"out of memory {report.out_of_memory} times, ended with {report.micro_batch_size} at once")
    console.out.print(", ".join(words), markup=False)
