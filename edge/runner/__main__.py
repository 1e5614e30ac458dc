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
import signal  # noqa: E402
from pathlib import Path  # noqa: E402

from edge.runner import limits  # noqa: E402
from edge.runner.channel import Channel  # noqa: E402
from edge.runner.config import RunnerConfig, parse  # noqa: E402
from edge.runner.execution import Executor  # noqa: E402
from edge.runner.runner import Runner  # noqa: E402
from edge.runner.warm import Warm, ZygoteGoneError  # noqa: E402
from edge.runner.zygote import Zygote, flush, live  # noqa: E402
from fl import console  # noqa: E402
from fl.errors import FLError  # noqa: E402


def main() -> int:
    """Run until the runner ends, or somebody ends us; both are a failure, and started again."""
    try:
        config = parse(sys.argv[1:])
        if config.pods is not None:
            return _run_in_pods(config, config.pods)
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


def _run_in_pods(config: RunnerConfig, pods: Path) -> int:
    """Run tasks in pods of a cluster: nothing is forked, so this process needs no torch, and tasks no access to it."""
    from edge.home import Home
    from edge.runner.pod import PodExecutor
    from edge.runner.pod_cluster import Cluster
    from edge.runner.pod_config import PodConfig

    found = PodConfig.from_file(pods)
    executor = PodExecutor(
        Cluster(found.namespace),
        found,
        config.limits,
        config.threads,
        site=Home(config.home).site().id,
        home=config.home,
        work=config.home / "pods",
        say=console.say,
    )
    # Asked politely to end: the pod that waits goes at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Runner(config, executor, console.say).run()
    except KeyboardInterrupt:
        return 143
    finally:
        executor.close()


def _run(config: RunnerConfig, base: Channel) -> None:
    warm = Warm(base, config.preload, config.warm_apps, console.say)
    executor = Executor(warm, base, config.limits, threads.wanted(given, config.threads))
    try:
        Runner(config, executor, console.say).run()
    except FLError as err:
        console.report_error(err)
        sys.exit(err.exit_status)
    except ZygoteGoneError as err:
        console.say(f"runner: {err}")
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
