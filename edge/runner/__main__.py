"""``python -m edge.runner``: the base process; it forks the runner and serves it. Started by the site's supervisor."""

from __future__ import annotations

import os
import sys

from edge.runner import threads

# Before NumPy is loaded, which starts a thread for each core otherwise.
given = threads.hold_back()
# An app that asks at its import whether there is a GPU is answered by the driver's management library; the driver
# itself, once asked, could not be used after a fork.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import functools  # noqa: E402

from edge.runner import limits  # noqa: E402
from edge.runner.channel import Channel  # noqa: E402
from edge.runner.config import RunnerConfig, parse  # noqa: E402
from edge.runner.runner import Runner  # noqa: E402
from edge.runner.warm import ZygoteGoneError  # noqa: E402
from edge.runner.zygote import Zygote, flush, live  # noqa: E402
from fl import console  # noqa: E402
from fl.errors import FLError  # noqa: E402


def main() -> int:
    """Run until the runner ends, or somebody ends us; both are a failure, and started again."""
    try:
        config = parse(sys.argv[1:])
    except FLError as err:
        console.report_error(err)
        return err.exit_status
    ours, theirs = Channel.pair()
    flush()
    pid = os.fork()
    if pid == 0:
        limits.die_with_parent()
        ours.close()
        live(functools.partial(_run, config, theirs))
    theirs.close()
    zygote = Zygote(ours, given)
    zygote.watch(pid)
    zygote.serve()
    return 1


def _run(config: RunnerConfig, base: Channel) -> None:
    try:
        Runner(config, base, threads.wanted(given, config.threads), console.say).run()
    except FLError as err:
        console.report_error(err)
        sys.exit(err.exit_status)
    except ZygoteGoneError as err:
        console.say(f"runner: {err}")
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
