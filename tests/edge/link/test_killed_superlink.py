"""SuperLink dies right after it has written something down and before anybody hears of it: no round waits for it.

Each instant is one at which Flower by itself loses a message: it marks one as delivered, dies, and never gives it to
anybody again.
"""

import pytest

from tests import killed_superlink
from tests.centre import centre
from tests.edge.link.sites import Echo, RunningSite, online, wait

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(600)]

INSTANTS = [
    ("runtime.push_messages", 1),
    ("fleet.pull_messages", 1),
    ("fleet.pull_object", 3),
    ("fleet.confirm_message_received", 1),
    ("fleet.push_messages", 1),
    ("fleet.push_object", 1),
    ("fleet.push_object", 4),
    ("claim_replies", 1),
    ("runtime.pull_messages", 1),
    ("runtime.pull_object", 2),
    ("runtime.confirm_message_received", 1),
]


@pytest.fixture(scope="module")
def it(tmp_path_factory):
    """A centre with a site, and a run that goes on from round to round."""
    home = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in killed_superlink.environment(home / "wish").items():
            patch.setenv(name, value)
        with centre(home / "centre", sites=("site-1",), executor=True) as made:
            site = RunningSite(made.group, made.sites["site-1"].home, [made.address])
            wait(made, lambda: online(made))
            made.run = Echo(made, home, rounds=1_000_000, nodes=1, **{"size-mib": 1.0, "timeout-s": 60.0})
            made.run.until(1)
            made.site, made.wish = site, home / "wish"
            made.group.children["superlink"].deaths.clear()
            yield made


@pytest.mark.parametrize(("step", "call"), INSTANTS)
def test_no_round_waits_for_a_message_that_died_with_superlink(it, step, call):
    before = len(it.run.rounds)
    lives = it.group.children["superlink"].lives
    killed_superlink.die_after(it.wish, step, call)
    wait(it, lambda: it.group.children["superlink"].lives > lives, 60)
    it.group.children["superlink"].deaths.clear()
    at = len(it.run.rounds)
    it.run.until(at + 2)
    for facts in it.run.rounds[before:]:
        assert facts["missing"] == 0, f"the round waited for its timeout: {facts}\n{it.site.logs()}"
        # The only thing that can't be brought back: Flower deletes a reply before it hands it over.
        assert facts["answered"] or step == "runtime.pull_messages", facts
