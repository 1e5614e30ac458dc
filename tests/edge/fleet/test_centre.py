"""The centre's own ``fl``, asked by a rollout; and centres that say no."""

import subprocess
import sys
from pathlib import Path

import pytest

from edge.fleet.centre import CentreCommand
from edge.fleet.config import CentreSection
from fl import __version__
from fl.errors import UnreachableError

FL = str(Path(sys.executable).parent / "fl")


@pytest.mark.slow
def test_a_real_centre_tells_its_version_its_sites_and_makes_tokens(tmp_path):
    home = tmp_path / "server"
    subprocess.run(
        [FL, "server", "init", "--home", home, "--address", "127.0.0.1:9443", "--roster-key-here"],
        check=True,
        capture_output=True,
    )
    centre = CentreCommand(CentreSection(command=(FL,), home=str(home)))
    assert centre.version() == __version__
    assert centre.sites() == {}
    assert centre.join_token("berlin").startswith("fl1.")
    assert not centre.sites()["berlin"].is_online
    assert centre.join_token("berlin").startswith("fl1.")  # another, for a site that is known
    assert centre.open_rounds() == {}


def script(tmp_path, body, timeout_s=60):
    path = tmp_path / "fl"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return CentreCommand(CentreSection(command=(str(path),), timeout_s=timeout_s))


def test_an_open_round_is_one_that_has_not_been_committed(tmp_path):
    runs = '[{"id": "a", "status": "running"}, {"id": "b", "status": "running"}, {"id": "c", "status": "completed"}]'
    body = f"""case "$3" in
--json) echo '{runs}';;
a) echo '{{"rounds": [{{"round": 1, "state": "done"}}, {{"round": 2, "state": "training"}}]}}';;
b) echo '{{"rounds": [{{"round": 7, "state": "committed"}}]}}';;
esac"""
    assert script(tmp_path, body).open_rounds() == {"a": 2}


def test_a_flower_app_tells_no_rounds_and_counts_as_one(tmp_path):
    body = """case "$2" in list) echo '[{"id": "7", "status": "running"}]';; *) echo '{"id": "7"}';; esac"""
    assert script(tmp_path, body).open_rounds() == {"7": 0}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("""echo '{"error": "no such home"}'; exit 2""", "with: no such home"),
        ("echo 'not json'", "with: nothing"),
        ("echo 'Permission denied' >&2; exit 255", "with: Permission denied"),
    ],
)
def test_a_centre_that_says_no_is_unreachable_in_one_line(tmp_path, body, words):
    with pytest.raises(UnreachableError) as caught:
        script(tmp_path, body).version()
    assert words in caught.value.message


def test_a_centre_that_is_silent_is_not_waited_for(tmp_path):
    with pytest.raises(UnreachableError, match="did not answer within"):
        script(tmp_path, "exec sleep 30", timeout_s=0.2).version()


def test_a_command_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnreachableError, match="cannot run /nowhere/fl"):
        CentreCommand(CentreSection(command=("/nowhere/fl",))).version()


def test_a_smoke_run_travels_through_standard_input(tmp_path):
    file = tmp_path / "smoke.toml"
    file.write_text('[run]\nrounds = 1\n[task]\nname = "digits"\n')
    body = f"""cat "$3" > {tmp_path}/got; echo '{{"run": "7", "status": "completed"}}'"""
    assert script(tmp_path, body).smoke(file, ["berlin"], 30) == ""
    assert 'sites = [\n    "berlin",\n]' in (tmp_path / "got").read_text()
