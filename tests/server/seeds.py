"""Fills a store as a centre in use would have it: sites in every condition, runs with rounds, replies and metrics.

Everything is drawn from a seed, so two fills of the same size are equal. Used by tests of pages and by benchmarks.
"""

import dataclasses
import json
import math
import random

from sqlalchemy import insert

from fl.link.report import Refused, SiteReport
from server import audit
from server.audit import Actor
from server.store.models import Certificate, Counter, Event, Key, Request, Site, Token
from server.store.runs import Alias, Metric, Model, Reply, Round, Run, Use

REGIONS = ("north", "east", "south", "west")
GPUS = ((), ("NVIDIA L4",), ("NVIDIA L4", "NVIDIA L4"), ("NVIDIA A100",), ("NVIDIA H100",))
REASONS = ("cuda out of memory: 23.1 GiB wanted", "task hospital.xray is not in the site's policy", "disk is full")
CONDITIONS = (
    *("training",) * 24,
    *("ready",) * 24,
    *("waiting", "limited", "refusing", "overdue", "away", "expired"),
    *("approve", "invited", "quarantined", "revoked"),
)
ROUND_S = 95.0


@dataclasses.dataclass(frozen=True)
class Size:
    """How much there is."""

    sites: int = 24
    rounds: int = 20
    cohort: int = 12
    runs: int = 4


def fill(store, folder, now_s, size=None, *, seed=20261126):
    """Sites, runs, models, an audit. The first run is under way and has all the rounds.

    Args:
        store: An empty one.
        folder: Where the models' files go.
        now_s: Seconds since 1970.
        size: How much.
        seed: Of everything drawn.
    """
    size = size or Size()
    draw = random.Random(seed)
    ids = [f"clinic-{number:04d}" for number in range(1, size.sites + 1)]
    with store.write() as session:
        _add_sites(session, draw, ids, now_s)
        for number in range(1, size.runs + 1):
            _add_run(session, draw, number, ids, now_s, size)
        _add_models(session, folder, now_s, size)
        _add_audit(session, now_s)


def _add_sites(session, draw, ids, now_s):
    tables = {kind: [] for kind in (Site, Key, Certificate, Token, Request, Counter, Event)}
    for number, site_id in enumerate(ids, 1):
        condition = CONDITIONS[(number * 7) % len(CONDITIONS)]
        gpus = draw.choice(GPUS)
        facts = {
            "fedfleet": "0.1.0",
            "gpus": [{"name": name} for name in gpus],
            "cores": draw.choice((8, 16, 32)),
            "memory_mib": draw.choice((32, 64, 128)) * 1024,
            "memory_limit_mib": None,
            "disk_free_mib": draw.randrange(20, 900) * 1024,
            "kubernetes": True,
        }
        report = SiteReport(
            facts=facts,
            waits_for={
                "waiting": "the centre: connection refused by fl.example.org:8443",
                "limited": "the owner's limits: window 20:00–06:00, opens in 4 hours",
            }.get(condition, ""),
            refused=(Refused(reason=REASONS[1], count=3, last_s=now_s - 300, run_id=0),)
            if condition == "refusing"
            else (),
            bytes_left=draw.randrange(1, 40) * 2**30,
            outbox_bytes=draw.choice((0, 0, 0, 7_340_032)),
        )
        seen_s = {"invited": None, "approve": None, "away": now_s - draw.randrange(120, 90_000)}.get(
            condition, now_s - draw.uniform(1, 27)
        )
        tables[Site].append(
            {
                "number": number,
                "id": site_id,
                "state": condition if condition in ("invited", "quarantined", "revoked") else "active",
                "reason": {"quarantined": "updates of 40 times the usual norm", "revoked": "left the study"}.get(
                    condition, ""
                ),
                "created_s": now_s - 40 * 86400,
                "changed_s": now_s - draw.randrange(3_600, 900_000),
                "seen_s": seen_s,
                "report": report.to_json(),
                "labels": json.dumps({"region": REGIONS[number % 4], "device": "gpu" if gpus else "cpu"}),
            }
        )
        if condition == "approve":
            tables[Site][-1]["state"] = "invited"
        if condition in ("approve", "invited"):
            tables[Token].append(
                {
                    "id": f"t{number}",
                    "site": number,
                    "certificate_sha256": f"tc{number}",
                    "issued_s": now_s - 3600,
                    "expires_s": now_s + 86400,
                    "new_keys": True,
                }
            )
        if condition == "approve":
            tables[Request].append(
                {
                    "token": f"t{number}",
                    "site": number,
                    "transport": b"",
                    "node": b"",
                    "identity": b"",
                    "fingerprint": "K7QF-3MZP-9XWA-22",
                    "version": "0.1.0",
                    "asked_s": now_s - 600,
                    "state": "waiting",
                    "decided_by": "",
                    "reason": "",
                }
            )
        else:
            left_s = {"overdue": 2.1, "expired": -0.5}.get(condition, draw.uniform(11, 29)) * 86400
            tables[Key].append(
                {"sha256": f"k{number}", "site": number, "kind": "transport", "public": b"", "since_s": now_s - 1e6}
            )
            tables[Certificate].append(
                {
                    "sha256": f"c{number}",
                    "site": number,
                    "key": f"k{number}",
                    "der": b"",
                    "issued_s": now_s + left_s - 30 * 86400,
                    "expires_s": now_s + left_s,
                    "authority": 1,
                    "ended_why": "",
                }
            )
        tables[Event] += [
            {"site": number, "at_s": now_s - 40 * 86400, "what": "invited", "words": "by ada"},
            {"site": number, "at_s": now_s - 39 * 86400, "what": "approved", "words": "by ada"},
        ]
        up = draw.randrange(2**20, 2**34)
        tables[Counter].append(
            {"site": number, "run_id": "71", "up_bytes": up, "down_bytes": 2 * up, "calls": draw.randrange(100, 9000)}
        )
    for table, rows in tables.items():
        if rows:
            session.execute(insert(table), rows)


def _add_run(session, draw, number, ids, now_s, size):
    """The first runs for a while; the others are over, or wait."""
    is_first = number == 1
    state = "running" if is_first else ("completed", "failed", "queued")[number % 3]
    done = {"running": size.rounds - 1, "completed": min(size.rounds, 20), "failed": min(size.rounds, 7)}.get(state, 0)
    took_s = ROUND_S * (size.rounds - 1) + 40 if is_first else ROUND_S * done
    began_s = now_s - took_s if is_first else now_s - number * 86400
    config = {
        "run": {"name": "chest-xray" if number % 2 else "digits", "rounds": size.rounds, "seed": number},
        "task": {"name": "digits", "learning_rate": 0.01 * number, "batch_size": 32},
        "strategy": {"name": "fedadam" if number % 2 else "fedavg"},
        "round": {"sites": size.cohort, "quorum": max(1, size.cohort * 2 // 3)},
        **({"secagg": {"threshold": 0.66}} if number == 2 else {}),
    }
    session.add(
        Run(
            number=number,
            name=f"202611{27 - number % 26:02d}-{config['run']['name']}-{number}",
            title=config["run"]["name"],
            project="default" if number % 2 else "radiology",
            priority=0,
            kind="run",
            state=state,
            reason="8 sites answered, 9 needed, three times over" if state == "failed" else "",
            config=json.dumps(config),
            sites=json.dumps({"region": "north"} if number == 4 else {}),
            app_digest="5d" * 32,
            submitted_by="ada",
            submitted_s=began_s - 30,
            start_s=now_s + 7200 if number == 4 and state == "queued" else 0.0,
            changed_s=began_s if is_first else began_s + took_s,
            finished_s=began_s + took_s if state in ("completed", "failed") else None,
            flower_run=str(70 + number),
            lives=0 if state == "queued" else 1,
            lines=done * 40,
            rounds_wanted=size.rounds,
            rounds_done=done,
        )
    )
    session.flush()
    if state == "queued":
        return
    session.add(Use(run=number, from_s=began_s, to_s=None if is_first else began_s + took_s, sites=size.cohort))
    _add_rounds(session, draw, number, ids, began_s, done, size, is_open=is_first)


def _add_rounds(session, draw, run, ids, began_s, done, size, *, is_open):
    at_work = [site for at, site in enumerate(ids, 1) if CONDITIONS[(at * 7) % len(CONDITIONS)] == "training"] or ids
    rounds, replies, metrics = [], [], []
    for number in range(1, done + 1 + is_open):
        opened_s = began_s + ROUND_S * (number - 1)
        open_now = number > done
        cohort = [
            (at_work if open_now else ids)[(number + at) % len(at_work if open_now else ids)]
            for at in range(min(size.cohort, len(at_work if open_now else ids)))
        ]
        landed = 0
        for site in cohort:
            waited_s = draw.uniform(20, 70)
            outcome = "asked" if open_now else draw.choices(("landed", "failed", "late", "missing"), (94, 3, 2, 1))[0]
            landed += outcome == "landed"
            has_update = outcome in ("landed", "late")
            replies.append(
                {
                    "run": run,
                    "round": number,
                    "attempt": 1,
                    "phase": "train",
                    "site": site,
                    "outcome": outcome,
                    "code": "task" if outcome == "failed" else "",
                    "reason": draw.choice(REASONS) if outcome == "failed" else "",
                    "at_s": opened_s + (0.4 if outcome == "asked" else waited_s),
                    "waited_s": None if outcome == "asked" else waited_s,
                    "size_bytes": 1_843_200 if has_update else 0,
                    "num_examples": draw.randrange(200, 4000) if has_update else None,
                    "report": json.dumps(
                        {
                            "device": "cuda",
                            "wall_s": round(waited_s - 4, 2),
                            "energy_j": round(70 * waited_s),
                            "cpu_s": round(1.4 * waited_s, 1),
                        }
                    )
                    if has_update
                    else "",
                }
            )
        rounds.append(
            {
                "run": run,
                "number": number,
                "state": "open" if open_now else "committed",
                "attempts": 1,
                "stage": "",
                "opened_s": opened_s,
                "closed_s": None if open_now else opened_s + 72,
                "committed_s": None if open_now else opened_s + 74.5,
                "online": len(ids),
                "cohort": len(cohort),
                "wanted": len(cohort),
                "quorum": max(1, len(cohort) * 2 // 3),
                "survivors": landed,
                "because": "" if open_now else "all answered or were given up",
                "received_bytes": landed * 1_843_200,
                "fold_s": None if open_now else 0.31,
                "model_digest": "" if open_now else f"crc32:{run * 1000 + number:08x}",
            }
        )
        if not open_now:
            loss = 2.3 * math.exp(-number / (6 + size.rounds / 8)) + 0.12 + draw.uniform(-0.02, 0.02)
            for place, factor in (("training", 0.95), ("sites", 1.0), ("centre", 1.05)):
                metrics.append({"run": run, "place": place, "name": "loss", "round": number, "value": loss * factor})
            accuracy = 0.97 - 0.8 * math.exp(-number / (5 + size.rounds / 8)) + draw.uniform(-0.01, 0.01)
            metrics.append({"run": run, "place": "sites", "name": "accuracy", "round": number, "value": accuracy})
    for table, rows in ((Round, rounds), (Reply, replies), (Metric, metrics)):
        if rows:
            session.execute(insert(table), rows)


def _add_models(session, folder, now_s, size):
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(1, size.rounds - 1), (3, min(size.rounds, 20))] if size.runs >= 3 else [(1, size.rounds - 1)]
    for number, (run, of) in enumerate(wanted, 1):
        path = folder / f"model-{number}.safetensors"
        path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        session.add(
            Model(
                number=number,
                run=run,
                round=of,
                digest=f"crc32:{run * 1000 + of:08x}",
                path=str(path),
                size_bytes=4 * 460_812 + 456,
                parameters=460_812,
                schema_digest="ab" * 32,
                app_digest="5d" * 32,
                created_s=now_s - 86400 * (3 - number),
            )
        )
        session.flush()
        session.add(Alias(name="production", model=number, by="ada", at_s=now_s - 86400 * (3 - number)))
        session.flush()


def _add_audit(session, now_s):
    ada, by_itself = Actor(who="ada", via="web", address="192.0.2.17"), Actor(who="fl", via="controller")
    for actor, action, subject, before, after, ago_s in (
        (ada, "site.add", "clinic-0001", None, {"state": "invited"}, 90_000),
        (ada, "site.approve", "clinic-0001", {"state": "invited"}, {"state": "active"}, 89_000),
        (ada, "run.start", "20261126-chest-xray-1", None, {"project": "default", "priority": 0}, 4000),
        (by_itself, "run.state", "20261126-chest-xray-1", {"state": "queued"}, {"state": "starting"}, 3990),
        (ada, "alias.set", "production", {"model": 1}, {"model": 2}, 1200),
        (ada, "site.quarantine", "clinic-0011", {"state": "active"}, {"state": "quarantined"}, 600),
    ):
        audit.append(session, actor, action, subject, before=before, after=after, at_s=now_s - ago_s)
