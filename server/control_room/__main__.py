"""``python -m server.control_room --home HOME``: what ``fl server up`` starts, and starts again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fl.errors import FLError
from server.control_room.process import run
from server.home import Home


def main() -> int:
    """Run until SIGTERM; 0, or the exit status of what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m server.control_room", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    try:
        run(Home(parser.parse_args().home))
    except FLError as err:
        sys.stderr.write(f"ERROR {err.message}\n" + (f"ERROR hint: {err.hint}\n" if err.hint else ""))
        return err.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
