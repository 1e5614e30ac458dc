"""What the guide to tables says of a real federation."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytestmark = [pytest.mark.federation, pytest.mark.timeout(400)]

FL = str(Path(sys.executable).with_name("fl"))
RUN_FILE = "examples/tabular/run.toml"


@pytest.fixture
def home(tmp_path):
    """The home of a federation whose sites have the rows of the example's table."""
    log = tmp_path / "up.log"
    argv = [FL, "up", "--sites", "2", "--task", RUN_FILE, "--data", "examples/tabular/tumours.csv"]
    with log.open("w") as out:
        process = subprocess.Popen([*argv, "--home", str(tmp_path / "home")], stdout=out, stderr=out, cwd=ROOT)
    while "ready at" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    yield tmp_path / "home"
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def test_a_table_is_divided_and_learned_from(home, tmp_path):
    text = (ROOT / RUN_FILE).read_text().replace("rounds = 10", "rounds = 1")
    (tmp_path / "run.toml").write_text(text)
    for name in ("tumours.csv", "held_out.csv"):
        (tmp_path / name).write_bytes((ROOT / "examples" / "tabular" / name).read_bytes())
    argv = [FL, "run", "start", str(tmp_path / "run.toml"), "--home", str(home)]
    done = subprocess.run([*argv, "--json"], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    assert "at the centre" in done.stderr
