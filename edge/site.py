"""``fl site run``: a site's link, SuperNode and runner as one group, each started again when it dies.

The SuperNode is Flower's, unmodified: it takes the link on loopback for its SuperLink, and is told to leave tasks to
the runner (``process`` isolation). Nothing of the site listens to the network, unless ``health`` in ``site.toml`` says
so.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from edge import supernode
from edge.home import Home, SiteFile
from edge.link.local import local_certificate
from edge.policy import PINNED
from edge.runner.config import Limits, RunnerConfig, command
from fl import ports
from fl.files import Lock, write_atomic
from fl.processes import Group, Restart

LINK, RUNNER, KEEPER = "link", "runner", "keeper"
# An unattended site tries for long; whoever started it then starts it anew.
RESTART = Restart(most_deaths=20, within_s=120, first_delay_s=0.2, longest_delay_s=10)
GRACE_S = 5.0
READY_WITHIN_S = 300.0
TICK_S = 0.2

FIRST_POLICY = """\
# What this site's owner allows. Everything that is not named here is allowed. Every key: docs/reference/site.md
# Check it with: fl site policy check

[apps]
# allow = ["<SHA-256 of an app>"]                # unset: any app; a refusal names the digest

[hours]
# time_zone = "Europe/Berlin"
# work = ["Mon-Fri 18:00-07:00", "Sat,Sun 00:00-24:00"]
# transfer = ["daily 22:00-06:00"]

[limits]
# upload_mbit_per_s = 10
# download_mbit_per_s = 50
# mib_per_day = 4096
# gpu_minutes_per_day = 240

[secagg]
# required = true                                # nothing leaves in clear
# min_sites = 5                                  # smallest cohort of a sum
"""


def run(home: Home, *, say: Callable[[str], None]) -> None:
    """Run a site that has joined until interrupted; its processes end with us, also when we are killed.

    Args:
        home: The site's.
        say: Called with a line for everything worth telling.

    Raises:
        BusyError: If another process runs this site.
        ConfigError: If the site has not joined, or a file cannot be used.
        ProcessError: If a process cannot be kept alive.
        StorageError: If the home cannot be written.
    """
    site = home.site()

    def tell(line: str) -> None:
        say(f"{site.id}: {line}")

    with Lock(home.path / "lock", hint="another process runs this site") as lock:
        prepare(home)
        with Group(grace_s=GRACE_S, hold=[lock.fileno()]) as group:
            try:
                _start(group, home, site, tell)
                while True:
                    for line in group.poll():
                        tell(line)
                    time.sleep(TICK_S)
            finally:
                # The SuperNode says goodbye through the link, so the link goes last.
                for name in (RUNNER, supernode.SUPERNODE):
                    if name in group.children:
                        group.stop(name)


def join_first(home: Home, token: str, *, say: Callable[[str], None]) -> None:
    """Join with a token, unless this home has joined already; waits for the gateway and for an operator.

    Raises:
        RefusedError: If the centre says no.
        ConfigError: If the token cannot be used, or the home is another site's.
    """
    if home.site_file.exists() and home.chain.exists():
        return
    from edge.identity import join
    from fl.link.token import decode

    join(decode(token), home, say=say, is_patient=True)


def prepare(home: Home) -> None:
    """Make what a site's processes need and what lives no longer than they do.

    Raises:
        StorageError: If it cannot be written.
    """
    for directory in (home.path, home.keys, home.certificates, home.secagg):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.keys.chmod(0o700)
    if not home.policy.exists() and not (home.path / PINNED).exists():
        write_atomic(home.policy, FIRST_POLICY, mode=0o600)
    floors = home.secagg / "policy.toml"
    if not floors.exists() and not floors.is_symlink():
        floors.symlink_to(os.path.relpath(home.policy, home.secagg))
    home.status.unlink(missing_ok=True)
    local_certificate(home)


def _start(group: Group, home: Home, site: SiteFile, say: Callable[[str], None]) -> None:
    """Start all three; the SuperNode when the link answers, because Flower waits longer after each failed call."""
    port, runtime_port = ports.free_port(), ports.free_port()
    supernode.make_secret(home)
    env = supernode.environment(home, site)
    argv = [sys.executable, "-m", "edge.link", "--home", str(home.path), "--port", str(port)]
    group.start(LINK, argv, env=env, log=home.path / "link.log", restart=RESTART)
    # It looks for the SuperNode by itself, and has imports to do meanwhile.
    runner = command(_runner(home, site, runtime_port))
    group.start(RUNNER, runner, env=env, log=home.path / "runner.log", restart=RESTART)
    if site.identity_secret:
        argv = [sys.executable, "-m", "edge.cluster", "--home", str(home.path), "--secret", site.identity_secret]
        group.start(KEEPER, argv, env=env, log=home.path / "keeper.log", restart=RESTART)
    _wait(group, port, "the start of the link", say)
    supernode.start(group, home, site, link_port=port, port=runtime_port)
    _wait(group, runtime_port, "the start of the SuperNode", say)
    say("the link, the SuperNode and the runner are up; fl site status tells more")


def _wait(group: Group, port: int, what: str, say: Callable[[str], None]) -> None:
    group.wait(
        lambda: ports.accepts_connections(supernode.HOST, port),
        what=what,
        timeout_s=READY_WITHIN_S,
        say=say,
        tick_s=TICK_S,
    )


def _runner(home: Home, site: SiteFile, runtime_port: int) -> RunnerConfig:
    limits: dict[str, Any] = {"memory_mib": site.memory_mib, "time_s": site.time_s, "cpu_s": site.cpu_s}
    return RunnerConfig(
        home=home.path.resolve(),
        runtime_api=f"{supernode.HOST}:{runtime_port}",
        secret_file=home.executor_secret,
        policy=home.policy if home.policy.exists() else None,
        limits=Limits(**{name: value for name, value in limits.items() if value is not None}),
        threads=site.threads,
        warm_apps=site.warm_apps,
        pods=site.pods,
        late=site.preload_at == "first-task",
    )
