"""Flower's SuperNode, unmodified, as a process of the site's group.

It takes the link for its SuperLink, authenticates itself there with the node's key, and leaves tasks to the runner
(``process`` isolation). SuperNode and runner talk over plain HTTP on 127.0.0.1, because nothing leaves the machine
there; a shared secret keeps other users of the machine from being handed a task and its data.
"""

from __future__ import annotations

import json
import secrets

from edge.home import Home, SiteFile
from fl import processes
from fl.files import write_atomic
from fl.processes import Group, Restart

SUPERNODE = "supernode"
HOST = "127.0.0.1"
NOT_LET_IN = "Exit Code: 305"
WAITS = "not let in yet: the node is not registered, or the centre is away; trying again"
# Flower ends with 305 what it does not let in; the node is registered a moment after the site has joined.
RESTART = Restart(expected={NOT_LET_IN: WAITS}, expected_delay_s=2.0)


def node_config(home: Home, site: SiteFile) -> str:
    """What the SuperNode tells every app about the site, as ``--node-config`` takes it."""
    values: dict[str, str | int] = {
        "site": site.id,
        "partition-id": site.partition_id,
        "num-partitions": site.num_partitions,
    }
    if site.data_dir is not None:
        values["data-dir"] = str(site.data_dir.resolve())
    if (home.secagg / "authority.pub").exists():
        values["secagg-dir"] = str(home.secagg.resolve())
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def make_secret(home: Home) -> None:
    """Make what SuperNode and runner share in this life.

    Raises:
        StorageError: If it cannot be written.
    """
    write_atomic(home.executor_secret, secrets.token_bytes(32), mode=0o600)


def start(group: Group, home: Home, site: SiteFile, *, link_port: int, port: int) -> None:
    """Start the SuperNode.

    Args:
        group: Whose process it becomes.
        home: The site's.
        site: Who the site is.
        link_port: Where the link's endpoint listens on loopback.
        port: Where its Runtime API shall listen on loopback, for the runner.

    Raises:
        ProcessError: If it cannot be started.
    """
    argv = [
        processes.program("flower-supernode"),
        *("--superlink", f"{HOST}:{link_port}"),
        *("--root-certificates", str(home.local_ca)),
        *("--auth-supernode-private-key", str(home.node_key)),
        *("--isolation", "process"),
        *("--host", HOST, "--port", str(port)),
        *("--superexec-auth-secret-file", str(home.executor_secret)),
        *("--node-config", node_config(home, site)),
    ]
    log = home.path / "supernode.log"
    group.start(SUPERNODE, argv, env=environment(home, site), log=log, restart=RESTART)


def environment(home: Home, site: SiteFile) -> dict[str, str]:
    """The environment of the site's processes."""
    return processes.environment(home=home.path / "flower", threads=site.threads)
