import io
import zipfile
from pathlib import Path

import pytest

from fl.errors import ConfigError
from server import bundle

MEAN_APP = Path(__file__).parents[1] / "e2e" / "apps" / "mean"


def names(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return set(archive.namelist())


def test_an_app_is_bundled_with_its_sources():
    content = bundle.from_directory(MEAN_APP)
    assert {"pyproject.toml", "mean_app/server.py", "mean_app/client.py"} <= names(content)
    assert bundle.from_directory(MEAN_APP) == content


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such directory: .*missing"):
        bundle.from_directory(tmp_path / "missing")


def test_a_directory_without_a_project_is_no_app(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a Flower app: it has no pyproject.toml") as caught:
        bundle.from_directory(tmp_path)
    assert "[tool.flwr.app]" in caught.value.hint


@pytest.mark.parametrize(
    ("without", "complaint"),
    [
        ("[tool.flwr.app.components]", "components"),
        ('serverapp = "mean_app.server:app"', "serverapp"),
        ("publisher", "publisher"),
    ],
)
def test_what_a_project_lacks_to_be_an_app_is_named(tmp_path, without, complaint):
    text = (MEAN_APP / "pyproject.toml").read_text()
    assert without in text
    (tmp_path / "pyproject.toml").write_text(text.replace(without, "[else]" if without[0] == "[" else "#"))
    with pytest.raises(ConfigError, match=f"is not a Flower app: .*{complaint}"):
        bundle.from_directory(tmp_path)


def test_a_component_that_is_not_there_is_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text((MEAN_APP / "pyproject.toml").read_text())
    with pytest.raises(ConfigError, match=r"its serverapp mean_app.server:app is not there"):
        bundle.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ([], {}),
        (["rounds=5"], {"rounds": 5}),
        (["rounds=5 pause-s=0.5"], {"rounds": 5, "pause-s": 0.5}),
        (["quick=true", "name='two words'"], {"quick": True, "name": "two words"}),
        (["optimiser=adam"], {"optimiser": "adam"}),
        (["data=./here.csv"], {"data": "./here.csv"}),
        (["rate=1e-3"], {"rate": 1e-3}),
        (['number="5"'], {"number": "5"}),
        (["a=b=c"], {"a": "b=c"}),
    ],
)
def test_options_are_read_as_flower_reads_them(options, values):
    assert bundle.parse_overrides(options) == values


@pytest.mark.parametrize("options", [["rounds"], ["rounds=5", "fast"], ["=5"], ["a="]])
def test_an_option_that_cannot_be_read_is_refused(options):
    with pytest.raises(ConfigError, match=r"as key=value"):
        bundle.parse_overrides(options)
