"""A control room in a directory, filled a little; its API behind starlette's client."""

import dataclasses
import functools
import json
import queue
import threading
import time

import anyio
from anyio.from_thread import BlockingPortal
from starlette.testclient import TestClient

from server.actions import Actions
from server.api import create_app
from server.api.config import AccessConfig
from server.audit import Actor
from server.home import Home
from server.live import Live
from server.people import digest
from server.store import Store
from server.store.models import Certificate, Counter, Event, Key, Site
from server.store.runs import Alias, Metric, Model, Reply, Round, Run
from tests.server.kit import make_centre

LOCAL_TOKEN = "fl_the-token-of-the-local-operator"
OPERATOR = Actor(who="tester", via="cli")
REPORT = {"facts": {"fedfleet": "0.1.0", "gpus": [{"name": "NVIDIA L4"}, {"name": "NVIDIA L4"}]}}
TRAINED = {"device": "cuda", "wall_s": 30.0, "energy_j": 3600.0, "cpu_s": 36.0}


def a_site(id="north", *, now_s=None, **changes):
    now_s = time.time() if now_s is None else now_s
    facts = {"state": "active", "reason": "", "created_s": now_s - 1e6, "changed_s": now_s - 1e5, "seen_s": now_s - 5}
    return Site(**{"id": id, "report": json.dumps(REPORT), **facts, **changes})


def a_certificate(site, *, now_s=None, days=7.0, left_days=5.0):
    now_s = time.time() if now_s is None else now_s
    return [
        Key(sha256=f"k{site}", site=site, kind="transport", public=b"", since_s=now_s),
        Certificate(
            sha256=f"c{site}",
            site=site,
            key=f"k{site}",
            der=b"",
            issued_s=now_s + (left_days - days) * 86400,
            expires_s=now_s + left_days * 86400,
            authority=1,
        ),
    ]


def a_run(name="20261126-digits", *, now_s=None, **changes):
    now_s = time.time() if now_s is None else now_s
    facts = {
        "title": "digits",
        "project": "default",
        "priority": 0,
        "kind": "run",
        "state": "running",
        "config": json.dumps({"run": {"rounds": 3}, "task": {"name": "digits"}}),
        "submitted_by": "ada",
        "submitted_s": now_s - 100,
        "start_s": 0.0,
        "changed_s": now_s - 90,
        "rounds_wanted": 3,
        "rounds_done": 1,
        "lives": 1,
    }
    return Run(**{"name": name, **facts, **changes})


def a_round(run, number, *, now_s=None, **changes):
    now_s = time.time() if now_s is None else now_s
    facts = {"attempts": 1, "online": 2, "cohort": 2, "wanted": 2, "quorum": 1, "opened_s": now_s - 60.0}
    done = {"state": "committed", "closed_s": now_s - 30.0, "committed_s": now_s - 29.0, "survivors": 2, "fold_s": 0.5}
    return Round(**{"run": run, "number": number, "received_bytes": 2048, **facts, **done, **changes})


def a_reply(run, round, site, *, now_s=None, **changes):
    now_s = time.time() if now_s is None else now_s
    facts = {"attempt": 1, "phase": "train", "outcome": "landed", "at_s": now_s - 30, "waited_s": 30.0}
    return Reply(
        **{
            "run": run,
            "round": round,
            "site": site,
            "size_bytes": 1024,
            "report": json.dumps(TRAINED),
            **facts,
            **changes,
        }
    )


def fill(store, folder, now_s=None):
    """Two sites, two runs of two projects, a model with a name."""
    now_s = time.time() if now_s is None else now_s
    file = folder / "model.safetensors"
    file.write_bytes(b"arrays")
    with store.write() as session:
        session.add_all([a_site("north", now_s=now_s), a_site("south", now_s=now_s, seen_s=now_s - 7200)])
        session.flush()
        for row in (*a_certificate(1, now_s=now_s), Event(site=1, at_s=now_s, what="approved", words="by ada")):
            session.add(row)
            session.flush()
        session.add(Counter(site=1, run_id="77", up_bytes=4096, down_bytes=8192, calls=9))
        session.add(a_run(now_s=now_s, flower_run="77"))
        session.add(a_run("20261126-secret", now_s=now_s, project="radiology", state="queued", rounds_done=0, lives=0))
        session.flush()
        session.add_all([a_round(1, 1, now_s=now_s), a_round(1, 2, now_s=now_s, state="open", committed_s=None)])
        for site in ("north", "south"):
            session.add(a_reply(1, 1, site, now_s=now_s))
        session.add(a_reply(1, 2, "north", now_s=now_s, outcome="asked", waited_s=None, size_bytes=0, report=""))
        session.add(Metric(run=1, place="sites", name="accuracy", round=1, value=0.75))
        for run in (1, 2):
            session.add(
                Model(
                    run=run,
                    round=1,
                    digest="sha",
                    path=str(file),
                    size_bytes=6,
                    parameters=1,
                    schema_digest="s",
                    created_s=now_s,
                )
            )
        session.flush()
        session.add(Alias(name="production", model=1, by="ada", at_s=now_s))


@functools.cache
def _portal():
    """An event loop for all clients; without it starlette makes a thread and a loop for each request."""
    found = queue.SimpleQueue()

    async def serve():
        async with BlockingPortal() as portal:
            found.put(portal)
            await portal.sleep_until_stopped()

    threading.Thread(target=anyio.run, args=(serve,), daemon=True).start()
    return found.get(timeout=30)


@dataclasses.dataclass
class Room:
    """A control room."""

    store: Store
    people: Actions
    live: Live
    app: object
    folder: object

    def client(self, token=LOCAL_TOKEN, **options):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = TestClient(self.app, base_url="https://fl.example.org", headers=headers, **options)
        client.portal = _portal()
        return client

    def user(self, name, role="viewer", projects=("*",), **options):
        """A client of a new user."""
        self.people.add_user(OPERATOR, name, role, projects)
        return self.client(self.people.add_token(OPERATOR, name).secret, **options)


def open_room(folder, **options):
    """A control room; only SuperLink's list of nodes is played."""
    home, live = folder / "home", Live()
    centre = make_centre(home)
    people = Actions(centre, live)
    store = people.store
    access = AccessConfig(**options.pop("access", {}))
    app = create_app(
        home=Home(home),
        store=store,
        actions=people,
        live=live,
        access=access,
        local_token=digest(LOCAL_TOKEN),
        **options,
    )
    return Room(store, people, live, app, folder)
