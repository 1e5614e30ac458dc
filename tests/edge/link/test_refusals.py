"""What the owner's policy refuses: told to the run, to the centre and to the owner, and counted."""

import asyncio
import datetime
import json

import httpx
import pytest

from edge.usage import Usage
from fl.flower.grid import FAILURES
from fl.link import report
from tests.edge.link.fleet_centre import FleetCentre, object_id, reply_to
from tests.edge.link.kit import SuperNode, read, until, world


def an_hour_that_is_not_now():
    now = datetime.datetime.now(datetime.UTC)
    start = (now.hour + 3) % 24
    return f"daily {start:02d}:00-{(start + 1) % 24:02d}:00 UTC"


async def refused(it):
    """The one error reply that came."""
    await until(lambda: it.centre.replies)
    ((message_id, reply),) = it.centre.replies.items()
    await until(lambda: it.centre.is_whole(message_id))
    return reply


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("[apps]\nallow = []", f"the app {object_id(b'an app')} is not in apps.allow"),
        (f'[hours]\nwork = ["{an_hour_that_is_not_now()}"]', "outside hours.work of this site's policy"),
        (f'[hours]\ntransfer = ["{an_hour_that_is_not_now()}"]', "outside hours.transfer of this site's policy"),
        ("[limits]\nmib_per_day = 0", "limits.mib_per_day are spent"),
        ("[limits]\ngpu_minutes_per_day = 0", "limits.gpu_minutes_per_day are spent"),
        ("[limits]\nmib_per_dya = 0", "this site's policy file cannot be used: unknown key limits.mib_per_dya"),
    ],
)
def test_mail_that_the_owner_does_not_want_is_answered_in_the_supernodes_place(tmp_path, policy, words):
    async def scenario():
        async with world(tmp_path) as it:
            it.home.policy.write_text(policy)
            message_id = it.centre.post([b"a model"])
            pulling = asyncio.create_task(SuperNode(it).pull())
            reply = await refused(it)
            assert reply.metadata.reply_to_message_id == message_id
            assert reply.metadata.run_id == 7
            assert FAILURES[reply.error.code] == "refused"
            assert words in reply.error.reason
            assert "the policy of site site-1" in reply.error.reason
            # the owner and the centre
            await until(lambda: it.home.status.exists() and read(it.home.status)["refused"])
            (told,) = read(it.home.status)["refused"]
            assert words in told["reason"]
            assert (told["count"], told["run_id"]) == (1, 7)
            await until(lambda: it.centre.reports and report.from_json(it.centre.reports[-1]).refused)
            assert words in report.from_json(it.centre.reports[-1]).refused[0].reason
            # the SuperNode never saw it
            it.home.policy.write_text("")
            await until(lambda: not it.status.outbox.waiting)
            wanted = it.centre.post([b"another model"])
            assert (await pulling).messages_list[0].metadata.message_id == wanted

    asyncio.run(scenario())


def test_refusals_are_counted_by_reason(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.home.policy.write_text("[apps]\nallow = []")
            pulling = asyncio.create_task(SuperNode(it).pull())
            for number in range(3):
                it.centre.post([b"model %d" % number], run_id=number + 1)
                await until(lambda n=number: len(it.centre.replies) == n + 1)
            await until(lambda: it.home.status.exists() and read(it.home.status)["refused"])
            await until(lambda: read(it.home.status)["refused"][0]["count"] == 3)
            assert read(it.home.status)["refused"][0]["run_id"] == 3
            pulling.cancel()

    asyncio.run(scenario())


def test_an_app_that_is_allowed_runs(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.home.policy.write_text(f'[apps]\nallow = ["{object_id(b"an app")}"]')
            it.centre.post([b"a model"])
            node = SuperNode(it)
            assert (await node.pull()).messages_list
            assert (await node.get_fab(it.centre.fab_name)).fab.content == b"an app"

    asyncio.run(scenario())


def test_an_app_under_another_ones_digest_is_refused(tmp_path):
    async def scenario():
        centre = FleetCentre()
        async with world(tmp_path, centre=centre) as it:
            it.home.policy.write_text(f'[apps]\nallow = ["{centre.fab_name}"]')
            centre.fab = b"another app"
            it.centre.post([b"a model"])
            node = SuperNode(it)
            assert (await node.pull()).messages_list
            with pytest.raises(httpx.HTTPStatusError) as caught:
                await node.get_fab(centre.fab_name)
            assert caught.value.response.status_code == 403
            reply = await refused(it)
            assert f"the app that came is {object_id(b'another app')}" in reply.error.reason

    asyncio.run(scenario())


def test_a_policy_that_changes_counts_at_once(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            node = SuperNode(it)
            it.centre.post([b"first"])
            assert (await node.pull()).messages_list
            it.home.policy.write_text("[apps]\nallow = []")
            it.centre.post([b"second"])
            pulling = asyncio.create_task(node.pull())
            await refused(it)
            it.home.policy.write_text("")
            third = it.centre.post([b"third"])
            assert (await pulling).messages_list[0].metadata.message_id == third

    asyncio.run(scenario())


def test_an_upload_waits_until_the_owner_lets_it_travel(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.home.policy.write_text(f'[hours]\ntransfer = ["{an_hour_that_is_not_now()}"]')
            reply = await SuperNode(it).reply(*reply_to("m" * 64, [b"an update" * 10_000]))
            await until(lambda: it.home.status.exists() and "hours.transfer" in read(it.home.status)["waits_for"])
            assert object_id(b"an update" * 10_000) not in it.centre.received
            it.home.policy.write_text("")
            await until(lambda: it.centre.is_whole(reply))

    asyncio.run(scenario())


def test_what_travels_is_counted(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.home.policy.write_text("[limits]\nmib_per_day = 100")
            node = SuperNode(it)
            model = b"m" * 3_000_000
            message_id = it.centre.post([model])
            await node.pull()
            await node.pull_object(object_id(model))
            reply = await node.reply(*reply_to(message_id, [b"u" * 2_000_000]))
            await until(lambda: it.centre.is_whole(reply))
            await until(lambda: not it.status.outbox.waiting)
            it.status.centre.limits.flush()
            today = Usage(it.home.usage, it.status.centre.limits.policy.now()).today()
            assert 3_000_000 <= today.down_bytes < 3_001_000
            assert 2_000_000 <= today.up_bytes < 2_001_000

    asyncio.run(scenario())


def test_a_report_is_read_by_an_older_and_a_newer_centre():
    made = report.SiteReport(
        waits_for="nothing",
        refused=(report.Refused(reason="no", count=2, last_s=1.0, run_id=3),),
        facts={"cores": 2},
    )
    assert report.from_json(made.to_json()) == made
    newer = {**json.loads(made.to_json()), "colour": "blue", "version": 2}
    newer["refused"][0]["severity"] = "high"
    assert report.from_json(json.dumps(newer)).refused == made.refused
    assert report.from_json("{}") == report.SiteReport()
    for text in ("[]", "{", '{"refused": 3}', " " * 70_000):
        with pytest.raises(ValueError):
            report.from_json(text)
