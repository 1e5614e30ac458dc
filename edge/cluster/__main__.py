"""``python -m edge.cluster``: keeps a site's Secret up to date while the site runs. Started by its supervisor.

The link renews certificates, the roster changes, the ledger grows: a few seconds later it is in the Secret. The client
of the cluster is loaded when something has changed, and in a process that ends afterwards: an idle site does not pay
for it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from edge.cluster.identity import keep, mark
from edge.home import Home
from fl import console
from fl.errors import FLError

LOOK_S = 5.0
AGAIN_S = 30.0


def main() -> int:
    """Look again and again."""
    parser = argparse.ArgumentParser(prog="edge.cluster", description="Keep a site's identity in a Secret.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--secret", required=True)
    given = parser.parse_args()
    home = Home(given.home.resolve())
    kept = ""
    while True:
        now = mark(home)
        if now != kept:
            kept = now if _keep(home, given.secret) else ""
            if not kept:
                time.sleep(AGAIN_S)
        time.sleep(LOOK_S)


def _keep(home: Home, secret: str) -> bool:
    """Write the Secret in a process of its own; whether it worked."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    status = 1
    try:
        from edge.cluster.secret import ClusterSecret

        if keep(home, ClusterSecret(secret)):
            console.say("the Secret is up to date")
        status = 0
    except FLError as err:
        console.report_error(err)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
