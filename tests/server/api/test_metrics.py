"""``/metrics``: what it says, to whom; the alert rules and the dashboard that are drawn from it."""

import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.server.api import kit

FILES = Path(str(resources.files("server.monitoring")))
WORDS = re.compile(r"\b(fedfleet_\w+)\b")


def scrape(room, **options):
    """Samples by name and labels."""
    text = room.client().get("/metrics", **options).text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_the_store_says(room):
    found = scrape(room)
    assert found["fedfleet_sites", ("condition", "training")] == 1
    assert found["fedfleet_sites", ("condition", "away")] == 1
    assert found["fedfleet_site_problem", ("condition", "away"), ("site", "south")] == 1
    assert found["fedfleet_runs", ("state", "running")] == 1
    assert found["fedfleet_queue_runs", ("project", "radiology")] == 1
    assert found["fedfleet_rounds_total",] == 1
    assert found["fedfleet_received_bytes_total",] == 2048
    assert found["fedfleet_replies_total", ("outcome", "landed"), ("phase", "train")] == 2
    assert found["fedfleet_step_seconds_sum", ("step", "fold")] == 0.5
    assert found["fedfleet_step_seconds_bucket", ("le", "0.3"), ("step", "fold")] == 0
    assert found["fedfleet_step_seconds_bucket", ("le", "1"), ("step", "fold")] == 1
    of_run = (("project", "default"), ("run", "20261126-digits"))
    assert found["fedfleet_run_rounds_done", *of_run] == 1
    assert found["fedfleet_run_fold_bytes_per_second", *of_run] == 4096
    assert found["fedfleet_run_metric", ("metric", "accuracy"), ("place", "sites"), *of_run] == 0.75


def test_counters_grow_with_the_rounds_and_count_none_twice(room):
    from server.store.runs import Run

    assert scrape(room)["fedfleet_rounds_total",] == 1
    with room.store.write() as session:
        for number in (3, 4):
            session.add(kit.a_round(1, number))
            session.add(kit.a_reply(1, number, "north", outcome="failed", code="nan"))
        session.get_one(Run, 1).rounds_done = 4
    for _ in range(2):
        found = scrape(room)
        assert found["fedfleet_rounds_total",] == 3
        assert found["fedfleet_reply_errors_total", ("code", "nan")] == 2
    with room.store.write() as session:
        session.get_one(Run, 1).state = "completed"
        session.add(kit.a_reply(1, 4, "south", outcome="late"))
    for _ in range(2):
        found = scrape(room)
        assert found["fedfleet_rounds_total",] == 3
        assert found["fedfleet_replies_total", ("outcome", "late"), ("phase", "train")] == 1


def test_a_thousand_sites_have_no_more_series_than_a_few(room):
    few = len(scrape(room))
    with room.store.write() as session:
        session.add_all([kit.a_site(f"site-{number}", seen_s=0.0) for number in range(1000)])
    found = scrape(room)
    assert found["fedfleet_sites", ("condition", "away")] == 1001
    assert len(found) < few + 50


def test_metrics_are_for_users_of_all_projects_and_for_their_own_token(tmp_path):
    tmp_path.joinpath("scrape").write_text("scraper\n")
    tmp_path.joinpath("scrape").chmod(0o600)
    room = kit.open_room(tmp_path, access={"metrics_token_file": tmp_path / "scrape"})
    assert room.client(None).get("/metrics").status_code == 401
    assert room.client("scraper").get("/metrics").status_code == 200
    assert room.client("scraper").get("/api/v1/runs").status_code == 401
    assert room.user("ada").get("/metrics").status_code == 200
    assert room.user("bob", projects=["x"]).get("/metrics").status_code == 403


@pytest.mark.parametrize(
    ("who", "address", "status"),
    [("anonymous", "203.0.113.9", 200), ("loopback", "127.0.0.1", 200), ("loopback", "203.0.113.9", 401)],
)
def test_metrics_can_be_opened_to_this_machine_or_to_everybody(tmp_path, who, address, status):
    room = kit.open_room(tmp_path, access={"metrics": who})
    assert room.client(None, client=(address, 50000)).get("/metrics").status_code == status


def names(room):
    """Every name of a sample that can be scraped."""
    found = {name for name, *_ in scrape(room)}
    with room.store.write() as session:
        session.add(kit.a_reply(1, 1, "north", outcome="failed", code="nan"))
    assert found
    return found | {"fedfleet_reply_errors_total", "fedfleet_centre_certificate_left_seconds"}


def expressions():
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text())
    alerts = [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    panels = json.loads((FILES / "grafana.json").read_text())["panels"]
    return [*alerts, *((panel["title"], target["expr"]) for panel in panels for target in panel["targets"])]


def test_alerts_and_dashboard_ask_for_metrics_that_exist(room):
    known = names(room)
    assert len(expressions()) > 30
    for what, expression in expressions():
        unknown = set(WORDS.findall(expression.replace('job="fedfleet"', ""))) - known
        assert not unknown, (what, unknown)


def test_every_alert_says_what_to_do_and_is_tested():
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"][0]["rules"]
    tests = (FILES / "alerts_test.yaml").read_text()
    for rule in rules:
        assert {"summary", "action"} <= set(rule["annotations"]), rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["alert"] in tests or rule["expr"].split(" > ")[0] in tests, rule["alert"]


def promtool(*arguments, **options):
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool: apt-get install prometheus")
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60, **options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.slow
def test_promtool_finds_nothing_wrong_with_metrics_rules_and_dashboard(room, tmp_path):
    assert promtool("check", "metrics", input=room.client().get("/metrics").text) == ""
    assert "11 rules found" in promtool("check", "rules", str(FILES / "alerts.yaml"))
    assert "SUCCESS" in promtool("test", "rules", str(FILES / "alerts_test.yaml"))
    ready = {"$__rate_interval": "5m", "$project": ".*", "$run": ".*"}
    queries = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$\w+", lambda found: ready[found.group()], expression)}
        for number, (_, expression) in enumerate(expressions())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(file))
