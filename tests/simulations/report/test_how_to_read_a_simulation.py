"""What the guide to reading simulations shows can be typed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from simulations.report.export import COLUMNS
from tests.docs import pages

PAGE = "docs/how-to/read-a-simulation.md"


def test_the_lines_of_the_guide_run(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sweep").symlink_to(sweep)
    (code,) = pages.fences(PAGE, "python")
    if importlib.util.find_spec("mlflow") is None:
        code = "\n".join(line for line in code.splitlines() if "to_mlflow" not in line)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    names: dict[str, object] = {}
    exec(code.replace("write(sweep)", "write(sweep, out=Path('page.html'))"), names)
    written = {path.name for path in tmp_path.iterdir()}
    assert written >= {"all.parquet", "all.csv", "board", "page.html"}
    assert list(names["figures"].index) == ["fedadam", "fedavg"]  # type: ignore[attr-defined]


def test_the_guide_has_every_column_of_a_frame() -> None:
    page = pages.read(PAGE)
    assert [name for name in COLUMNS if f"`{name}`" not in page] == []
