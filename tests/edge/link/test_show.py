"""What the owner sees: fl site status, fl site policy check, the probes' paths."""

import asyncio
import json
import time

import httpx
import pytest

from edge import probe
from edge.link import show
from fl import cli, ports
from tests.edge.link.kit import SuperNode, make_home, read, until, world


def test_probes_are_answered(tmp_path):
    async def scenario():
        port = ports.free_port()
        async with world(tmp_path, health=f"127.0.0.1:{port}") as it, httpx.AsyncClient() as probe_of:
            url = f"http://127.0.0.1:{port}"
            assert (await probe_of.get(f"{url}/livez")).status_code == 200
            assert (await probe_of.get(f"{url}/readyz")).status_code == 200
            assert (await probe_of.get(f"{url}/status")).json()["site"] == "site-1"
            assert (await probe_of.get(f"{url}/v1/fleet/pull-messages")).status_code == 404
            it.centre.denied = "revoked"
            it.status.change()
            await until(lambda: it.status.centre.channel.refused)
            answer = await probe_of.get(f"{url}/readyz")
            assert answer.status_code == 503
            assert "revoked" in answer.json()["waits_for"]
            assert (await probe_of.get(f"{url}/livez")).status_code == 200

    asyncio.run(scenario())


def test_the_status_tells_a_connected_site(tmp_path, capsys):
    async def scenario():
        async with world(tmp_path) as it:
            await SuperNode(it).activate()
            await until(lambda: it.home.status.exists() and read(it.home.status)["state"] == "connected")
            await until(lambda: read(it.home.status)["waits_for"] == "")
            it.home.policy.write_text("[limits]\nmib_per_day = 100\ngpu_minutes_per_day = 5")
            return await asyncio.to_thread(cli.run, ["site", "status", "--home", str(it.home.path)])

    assert asyncio.run(scenario()) == 0
    said = capsys.readouterr().out
    for words in ("site-1", "connected to 127.0.0.1:", "waits for", "nothing", "7.0 days left", "GPU"):
        assert words in said


def test_a_site_whose_link_ended_is_not_called_connected(tmp_path, capsys):
    home, _, _ = make_home(tmp_path / "site", ["127.0.0.1:9"])
    assert cli.run(["site", "status", "--home", str(home.path), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    home.status.write_text(
        json.dumps({"version": 1, "site": "site-1", "state": "connected", "pid": 2**22 + 1, "at_s": 0})
    )
    assert cli.run(["site", "status", "--home", str(home.path)]) == 4
    assert "fl site run: the link ended" in capsys.readouterr().out


def test_the_lines_of_a_site_in_trouble():
    said = {
        "site": "clinic",
        "state": "refused",
        "waits_for": "the centre to let it in: revoked",
        "message": "call the operator",
        "clock": "the site's clock is 10 min ahead of the centre's",
        "last_contact_s": 1000.0,
        "certificate_ends_s": 900.0,
        "run_id": 7,
        "outbox": {"replies": 1, "bytes": 2048, "sent": 3, "given_up": ["the run is over"]},
        "today": {"up_bytes": 1 << 20, "down_bytes": 0, "gpu_s": 1},
        "bytes_left": 1 << 30,
        "gpu_left_s": 65.0,
        "refused": [{"reason": "outside hours.work", "count": 2, "last_s": 0, "run_id": 7}],
        "gpus": [{"name": "NVIDIA L4", "memory_used_mib": 5, "memory_mib": 23034, "busy_percent": 12}],
        "gpu_problem": "",
    }
    assert show.rows(said, 1060.0) == [
        ("site", "clinic"),
        ("state", "refused"),
        ("waits for", "the centre to let it in: revoked"),
        ("the centre says", "call the operator"),
        ("clock", "the site's clock is 10 min ahead of the centre's"),
        ("last contact", "1 min 00 s ago"),
        ("certificate", "ran out 2 min 40 s ago"),
        ("works on run", "7"),
        ("outbox", "1 replies, 2.0 KiB; 3 sent"),
        ("given up", "the run is over"),
        ("today", "1.0 MiB up, 0 B down"),
        ("left today", "1.0 GiB"),
        ("GPU time left today", "1 min 05 s"),
        ("refused", "2 × outside hours.work"),
        ("GPU", "NVIDIA L4, 5 of 23034 MiB used, 12 % busy"),
    ]


def test_a_policy_is_checked_and_told_in_words(tmp_path, capsys):
    path = tmp_path / "policy.toml"
    path.write_text(
        f'[apps]\nallow = ["{"ab" * 32}"]\n[hours]\nwork = ["Sat 01:00–05:00 Europe/Berlin"]\n'
        "[limits]\nupload_mbit_per_s = 10\nmib_per_day = 4096\n[secagg]\nrequired = true\nmin_sites = 5\n"
    )
    arguments = ["site", "policy", "check", str(path), "--home", str(tmp_path), "--at", "2026-01-05T12:00:00"]
    assert cli.run(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "1 allowed",
        "ab" * 32,
        "closed now; opens Sat 2026-01-10 01:00 Europe/Berlin",
        "at any hour",
        "at most 10 Mbit/s",
        "as fast as the line",
        "4096 MiB, 4.0 GiB left",
        "required = true, min_sites = 5",
    ):
        assert words in said


def test_a_policy_check_says_whether_an_app_may_run(tmp_path, capsys):
    path = tmp_path / "policy.toml"
    path.write_text(f'[apps]\nallow = ["{"ab" * 32}"]\n[hours]\nwork = ["Sat 01:00-05:00"]\n')
    check = ["site", "policy", "check", str(path), "--home", str(tmp_path), "--app"]
    assert cli.run([*check, "ab" * 32, "--at", "2026-01-03T02:00:00"]) == 0
    assert cli.run([*check, "cd" * 32, "--at", "2026-01-03T02:00:00"]) == 2
    assert "is not in apps.allow" in capsys.readouterr().err
    assert cli.run([*check, "ab" * 32, "--at", "2026-01-03T12:00:00"]) == 2
    assert "outside hours.work" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[limit]\n", "nonsense", '[hours]\nwork = ["now"]'])
def test_a_policy_that_cannot_be_used_ends_with_status_2(tmp_path, text, capsys):
    (tmp_path / "policy.toml").write_text(text)
    assert cli.run(["site", "policy", "check", "--home", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("fl: error: ")


def test_the_owner_signs_a_policy(tmp_path, capsys):
    key = tmp_path / "owner.key"
    assert cli.run(["secagg", "key", str(key)]) == 0
    (tmp_path / "policy.toml").write_text("[limits]\nmib_per_day = 1\n")
    (tmp_path / "keys").mkdir()
    public = capsys.readouterr().out.split()[-1]
    (tmp_path / "keys" / "policy.pub").write_text(public)
    check = ["site", "policy", "check", "--home", str(tmp_path)]
    assert cli.run(check) == 2
    assert cli.run(["site", "policy", "sign", str(tmp_path / "policy.toml"), "--key", str(key)]) == 0
    assert cli.run(check) == 0


def test_the_probe_tells_what_it_found_or_why_not(tmp_path, monkeypatch):
    found = probe.facts(tmp_path)
    assert found["cores"] >= 1
    assert found["memory_mib"] > 100
    assert found["disk_free_mib"] > 0
    assert found["flower"].startswith("1.41")
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    program.write_text("#!/bin/sh\necho '0, NVIDIA L4, 23034, 5, [N/A], 570.86'\n")
    program.chmod(0o755)
    gpus, problem = probe.nvidia_gpus()
    assert problem == ""
    assert gpus == [
        {
            "index": 0,
            "name": "NVIDIA L4",
            "memory_mib": 23034,
            "memory_used_mib": 5,
            "busy_percent": None,
            "driver": "570.86",
        }
    ]
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    assert probe.nvidia_gpus() == ([], "Failed to initialize NVML: Driver/library version mismatch")


def test_a_status_says_how_old_it_is(tmp_path):
    home, _, _ = make_home(tmp_path / "site", ["127.0.0.1:9"])
    now = time.time()
    home.status.write_text(json.dumps({"version": 1, "site": "site-1", "state": "connected", "pid": 1, "at_s": now}))
    assert show.status_now(home, now + 10)["state"] == "connected"
    assert show.status_now(home, now + 1000)["state"] == "stopped"
