"""A server needs no torch, and what needs it says so."""

import subprocess
import sys
import textwrap

CODE = """
    import sys

    for name in ("torch", "sklearn", "PIL", "pyarrow", "pynvml"):
        sys.modules[name] = None  # what an import then finds is that there is none

    import numpy as np

    import fl.commands.task
    import fl.tasks.loop
    from fl.errors import TaskError
    from fl.tasks import Site, TrainingConfig, available, create
    from fl.tasks.loop import centralised, evaluate, initial_arrays, train
    from fl.tasks.splits import split

    assert len(available()) == 3
    split(np.arange(10) % 2, 2, "dirichlet", 1)
    tasks = {
        "digits": create("digits", {}),
        "tabular": create("tabular", {"target": "a", "columns": ["b"], "path": "x.csv"}),
        "images": create("images", {"classes": ["a", "b"], "path": "."}),
    }
    for task in tasks.values():
        for action in (
            lambda: initial_arrays(task, 1),
            lambda: train(task, {}, Site("a"), TrainingConfig(), seed=1),
            lambda: evaluate(task, {}, [], TrainingConfig()),
            lambda: centralised(task, TrainingConfig(), epochs=1, seed=1),
            task.model,
        ):
            try:
                action()
            except TaskError as error:
                assert (error.message, error.hint) == ("torch is not installed here", "pip install 'fedfleet[torch]'")
            else:
                raise AssertionError("trained without torch")
    try:
        tasks["tabular"].labels(None)
    except TaskError as error:
        assert error.message == "pyarrow is not installed here", error
    else:
        raise AssertionError("read a table without pyarrow")
"""


def test_tasks_are_described_and_divided_without_torch_and_trained_only_with_it():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(CODE)], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr


def test_importing_tasks_does_not_import_torch():
    code = "import fl.tasks.loop, fl.commands.task, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=110).returncode == 0
