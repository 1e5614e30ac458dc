"""The notebooks run from a fresh kernel, and what is committed in them is what came out of such a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def kinds(notebook: Any) -> list[list[str]]:
    """For each cell of code, what came out of it: the names of streams and the types of data."""
    return [
        sorted(kind for output in cell.outputs for kind in output.get("data") or [output.get("name", "error")])
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize(
    "name", ["first_simulation.ipynb", pytest.param("compare_strategies.ipynb", marks=pytest.mark.slow)]
)
def test_a_notebook_runs_and_shows_what_is_committed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    notebook = read(name)
    committed = kinds(notebook)
    nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(notebook) == committed


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_as_a_whole_run_left_it(name: str) -> None:
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_somebodys_machine_is_in_a_notebook(name: str) -> None:
    assert not re.search(r"/(home|tmp|root|Users|work)/", (NOTEBOOKS / name).read_text(encoding="utf-8"))


def test_there_are_notebooks() -> None:
    assert NAMES == ["compare_strategies.ipynb", "first_simulation.ipynb"]
