"""Flower's SuperLink and its executor as processes of a group: loopback, TLS, state on disk, restarts.

The SuperLink runs with process isolation. So ServerApps are children of the executor, not of the SuperLink,
and a SuperLink that is killed and started again within a minute finds its runs alive, with their state in
its SQLite file. Its Control API asks nobody for a name or password: whoever reaches the port and holds
``ca.crt`` may start runs. That is why it listens on 127.0.0.1 only, and why sites elsewhere will reach a
gateway instead.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from fl import processes
from fl.processes import Group, Restart
from server import claims
from server.certificates import Files

SUPERLINK = "superlink"
EXECUTOR = "superlink executor"
HOST = "127.0.0.1"
DATABASE, LEDGER = "state.db", "ledger.db"
# Flower ends a run whose ServerApp could not report for 60 s, so the SuperLink must be back well before.
RESTART = Restart(most_deaths=5, within_s=60, first_delay_s=0.2, longest_delay_s=5)


def start(group: Group, *, home: Path, port: int, files: Files, env: Mapping[str, str]) -> None:
    """Start the SuperLink in the group; it is started again when it dies, and loses no mail by that (``claims``).

    Args:
        group: Whose process it becomes.
        home: Directory for the database and the logs; made if needed. The gateway's ledger lies in
            ``../gateway``.
        port: Port on 127.0.0.1, free.
        files: Certificate, key and executor secret.
        env: Its environment (see ``fl.processes.environment``).

    Raises:
        ProcessError: If it cannot be started.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    argv = [
        processes.program("flower-superlink"),
        *("--host", HOST, "--port", str(port)),
        *("--isolation", "process"),
        *("--database", str(home / DATABASE)),
        *("--ssl-ca-certfile", str(files.ca)),
        *("--ssl-certfile", str(files.certificate)),
        *("--ssl-keyfile", str(files.key)),
        "--enable-supernode-auth",
        *("--superexec-auth-secret-file", str(files.executor_secret)),
        "--disable-runtime-dependency-installation",
    ]
    argv = claims.argv(home / DATABASE, home.parent / "gateway" / LEDGER, argv)
    group.start(SUPERLINK, argv, env=env, log=home / "superlink.log", restart=RESTART)


def start_executor(group: Group, *, home: Path, port: int, files: Files, env: Mapping[str, str]) -> None:
    """Start the SuperLink's executor, which starts the ServerApps; best once the SuperLink answers.

    Flower waits longer after each failed call, so an executor that starts too early starts its first task late.
    Arguments and errors are those of ``start``.
    """
    argv = [
        processes.program("flower-superexec"),
        *("--runtime-api-address", f"{HOST}:{port}"),
        *("--root-certificates", str(files.ca)),
        *("--superexec-auth-secret-file", str(files.executor_secret)),
    ]
    group.start(EXECUTOR, argv, env=env, log=home / "executor.log", restart=RESTART)


def is_healthy(port: int, ca: Path) -> bool:
    """Whether the SuperLink on this port answers, with a certificate of this authority."""
    context = ssl.create_default_context(cafile=str(ca))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"https://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
