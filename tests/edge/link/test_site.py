"""A real site before a real gateway and SuperLink, whose processes are killed in the middle of a run."""

import json
import signal
import time

import pytest

from tests.centre import centre
from tests.edge.link.sites import Echo, RunningSite, online, wait

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def it(tmp_path):
    with centre(tmp_path / "centre", sites=("site-1",), executor=True) as made:
        yield made


def test_a_run_goes_on_whatever_dies(it, tmp_path):
    site = RunningSite(it.group, it.sites["site-1"].home, [it.address])
    wait(it, lambda: online(it))
    run = Echo(it, tmp_path, rounds=12, nodes=1, **{"size-mib": 1.0, "timeout-s": 120.0})
    kills = {
        "the link": lambda: site.kill("-m edge.link"),
        "the runner": lambda: site.kill("-m edge.runner"),
        "the SuperNode": lambda: site.kill("flower-supernode"),
        "the gateway": lambda: (it.gateway.stop(), it.gateway.start()),
        "the SuperLink": lambda: it.group.children["superlink"].process.send_signal(signal.SIGKILL),
    }
    run.until(1)
    for name, kill in kills.items():
        before, began = len(run.rounds), time.monotonic()
        kill()
        run.until(before + 2)
        print(f"{name} killed: the second round after it was over after {time.monotonic() - began:.1f} s")
    state = run.end()
    print(site.logs())
    assert state.state == "completed", run.centre.control.run(run.run_id)
    assert len(run.rounds) == 12
    for number, facts in enumerate(run.rounds):
        assert facts["missing"] == 0, f"round {number + 1} waited for its timeout: {facts}"
        assert facts["answered"] or facts["failed"], facts
    # A message is lost only with the process that had it.
    assert sum(bool(facts["failed"]) for facts in run.rounds) <= 2


def test_what_the_policy_refuses_is_told_to_the_run(it, tmp_path):
    home = it.sites["site-1"].home
    (home / "policy.toml").write_text("[apps]\nallow = []\n")
    site = RunningSite(it.group, home, [it.address])
    wait(it, lambda: online(it))
    run = Echo(it, tmp_path, rounds=2, nodes=1)
    run.until(2)
    for facts in run.rounds:
        (reason,) = facts["failed"].values()
        assert reason.startswith("refused by the policy of site site-1: the app ")
        assert reason.endswith("is not in apps.allow of this site's policy")
    wait(it, lambda: [entry["count"] for entry in site.status().get("refused", ())] == [2])
    wait(it, lambda: any(json.loads(text).get("refused") for _, text in it.registry.reports))
    digest = reason.split("the app ")[1].split(" ")[0]
    (home / "policy.toml").write_text(f'[apps]\nallow = ["{digest}"]\n')
    run = Echo(it, tmp_path, rounds=1, nodes=1)
    run.until(1)
    assert run.rounds[0]["answered"], site.logs()
