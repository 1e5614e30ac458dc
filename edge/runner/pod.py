"""Runs a task in a Kubernetes pod of its own, or in the one that its app's last task left warm.

A pod's life: made with its Secret, called in, given one task after the other of one app while it is wanted, dismissed.
Whoever dies, nothing stays: the pod ends when it hears nothing of the runner for a minute, Kubernetes ends it after its
deadline, its Secret goes with it, it goes with its owner, and the next life of the runner deletes what it finds.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.runner import pod_failures, pod_files, pod_spec
from edge.runner.clientapp import App
from edge.runner.config import Limits
from edge.runner.outcome import Outcome
from edge.runner.pod_cluster import Cluster
from edge.runner.pod_config import PodConfig
from edge.runner.pod_endpoint import Endpoint, Job, Seat
from edge.runner.pod_spec import Owner, Wanted
from fl.errors import BusyError, FLError, RefusedError, UnreachableError

TICK_S = 0.2
LOOK_STARTING_S, LOOK_RUNNING_S = 1.0, 2.0
QUOTA_AGAIN_S = 2.0
SILENT_S = 60.0
"""Without a word from a pod for so long, it is given up: its node, or the way to it, is lost."""
GRACE_S = 300.0
"""Of a pod's life beyond the tasks that it is made for: its start, its end."""
NOT_HELD = "the cluster lets this site's runner do everything: its RBAC is off, and rights hold nobody back"


class _LostError(Exception):
    """The pod was taken away from under its task."""


class _FailedError(Exception):
    """The task got no answer, and would not get one from another pod."""


@dataclasses.dataclass(slots=True)
class _Pod:
    """A pod that we have made."""

    name: str
    digest: str
    seat: Seat
    dies_at: float
    """Monotonic time after which Kubernetes ends it."""
    free_at: float | None = None
    """Monotonic time at which its last task was done."""


class PodExecutor:
    """Runs one task at a time, each in a pod.

    Args:
        cluster: Where pods are made.
        config: What they are like.
        limits: What a task may use.
        threads: Compute threads of a task; as many as the pod's cores if not given.
        site: The site's id.
        home: The site's home, whose path tasks know.
        work: Directory of what the runner writes.
        say: Called with a line for everything worth telling.

    Raises:
        FLError: If the cluster cannot be used like this.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: PodConfig,
        limits: Limits,
        threads: int | None,
        *,
        site: str,
        home: Path,
        work: Path,
        say: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._config = config
        self._limits = limits
        self._threads = threads
        self._site = site
        self._home = home
        self._work = work
        self._say = say
        self._host = config.host or os.environ.get("FEDFLEET_POD_IP", "")
        if not self._host:
            raise RefusedError("pods cannot reach this runner: its address is unknown", hint="set FEDFLEET_POD_IP")
        self._numbers = itertools.count(1)
        self._pod: _Pod | None = None
        check_rights(cluster, config)
        self._owner = self._find_owner()
        self.sweep()
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._endpoint = Endpoint(work, config.port)

    def prepare(self) -> None:
        """Nothing: a pod is made for a task, when its app is known."""

    def fileno(self) -> None:
        """Nothing happens to a pod that cannot wait a few seconds."""

    def sweep(self) -> None:
        """Delete the task pods that are there and not ours: a former life's, or ended ones."""
        for pod in self._cluster.pods(pod_spec.selector(self._site)):
            name = pod["metadata"]["name"]
            if self._pod is None or name != self._pod.name:
                self._say(f"deleting the pod {name} that a former life has left")
                self._cluster.delete_pod(name, grace_s=0)

    def run(
        self, app: App, received: Path, answered: Path, *, beat: Callable[[], None], gpu_left_s: float | None = None
    ) -> Outcome:
        """Have an app answer in a pod; return as soon as the answer lies ready, or there will be none.

        Args:
            app: The app.
            received: Parcel of the message.
            answered: Parcel of the reply, to be written.
            beat: Called again and again; what it raises ends the task, and comes as it is.
            gpu_left_s: For how long the task may hold a GPU.
        """
        began = time.monotonic()
        self._cluster.tick = beat
        try:
            for attempt in itertools.count():
                try:
                    return self._attempt(app, received, answered, beat, gpu_left_s, began)
                except _LostError as err:
                    left_s = began + self._limits.time_s - time.monotonic()
                    if attempt >= self._config.retries or left_s <= 0:
                        how = f"its pod was taken away {attempt + 1} times; the last time, {err}"
                        return _without_answer(how if attempt else f"the task was lost: {err}", began)
                    self._say(f"the task's pod was taken away ({err}); the task is started anew")
        except (_FailedError, FLError) as err:
            self._drop()
            return _without_answer(err.message if isinstance(err, FLError) else str(err), began)
        finally:
            self._cluster.tick = _nothing
        raise AssertionError

    def settle(self) -> None:
        """After a task: let its pod wait for the next one, or end it, which frees its GPU."""
        if self._pod is not None and not self._config.keeps_s:
            self._drop()

    def idle(self) -> None:
        """Between tasks, every few seconds: end the pod that has waited long enough, forget the one that has ended."""
        if self._pod is None or self._pod.free_at is None:
            return
        now = time.monotonic()
        if now - self._pod.free_at > self._config.keeps_s or now > self._pod.dies_at - GRACE_S:
            self._drop()

    def close(self) -> None:
        """End what there is; the runner ends."""
        self._drop()
        self._endpoint.close()

    def _attempt(
        self,
        app: App,
        received: Path,
        answered: Path,
        beat: Callable[[], None],
        gpu_left_s: float | None,
        began: float,
    ) -> Outcome:
        job = self._job(app, received, answered, gpu_left_s, began)
        pod = self._warm(app)
        is_warm = pod is not None
        if pod is None:
            self._drop()
            pod = self._make(app, beat, began)
        pod.free_at = None
        pod.seat.offer(job)
        try:
            outcome = self._attend(pod, job, beat, began)
            if job.outputs["secagg"].exists():
                pod_files.keep(job.outputs["secagg"], self._home / "secagg")
        except BaseException as err:
            pod.seat.withdraw()
            if is_warm and isinstance(err, _LostError) and job.taken_at is None:
                self._drop()  # it ended while it waited: nothing was lost but a little time
                return self._attempt(app, received, answered, beat, gpu_left_s, began)
            self._drop()
            raise
        finally:
            for path in (*job.outputs.values(), job.inputs["secagg"]):
                if path != answered:
                    path.unlink(missing_ok=True)
        assert job.taken_at is not None
        how = "warm" if is_warm else "new"
        self._say(f"the task started in the {how} pod {pod.name} after {job.taken_at - began:.2f} s")
        pod.free_at = time.monotonic()
        pod.seat.withdraw()
        return outcome

    def _job(self, app: App, received: Path, answered: Path, gpu_left_s: float | None, began: float) -> Job:
        bundle = self._work / "bundle.fab"
        bundle.write_bytes(app.bundle)
        borrowed = self._work / "secagg.out"
        pod_files.pack(self._home / "secagg", borrowed)
        left_s = max(1.0, began + self._limits.time_s - time.monotonic())
        limits = dataclasses.replace(self._limits, time_s=left_s)
        order: dict[str, Any] = {"digest": app.digest, "limits": dataclasses.asdict(limits), "threads": self._threads}
        order |= {"gpu_left_s": gpu_left_s, "secagg": str(self._home / "secagg")}
        return Job(
            number=next(self._numbers),
            order=order,
            inputs={"bundle": bundle, "received": received, "secagg": borrowed},
            outputs={"answered": answered, "secagg": self._work / "secagg.in"},
        )

    def _warm(self, app: App) -> _Pod | None:
        """The pod that waits, if it is this app's and lives long enough for one more task."""
        pod = self._pod
        if pod is None or pod.digest != app.digest:
            return None
        return pod if time.monotonic() + self._limits.time_s < pod.dies_at else None

    def _make(self, app: App, beat: Callable[[], None], began: float) -> _Pod:
        """Make a pod, as soon as the namespace's quota has room for it."""
        life_s = self._limits.time_s * (2 if self._config.keeps_s else 1) + GRACE_S + self._config.start_within_s
        short = re.sub("[^a-z0-9]+", "-", self._site.lower())[:40].strip("-")
        wanted = Wanted(
            name=f"fl-task-{short}-{secrets.token_hex(4)}",
            site=self._site,
            digest=app.digest,
            address=f"{self._host}:{self._endpoint.port}",
            home=str(self._home),
            life_s=life_s,
        )
        seat = self._endpoint.seat()
        pod = self._pod = _Pod(wanted.name, app.digest, seat, time.monotonic() + life_s)
        made = self._when_there_is_room(
            lambda: self._cluster.create_pod(pod_spec.pod(self._config, wanted, self._owner)), beat, began
        )
        # Its Secret comes second, because it belongs to the pod; the pod waits for it.
        owner = Owner("Pod", wanted.name, made["metadata"]["uid"])
        files = {"token": seat.token.encode(), "authority.pem": self._endpoint.authority}
        secret = pod_spec.secret(self._config, wanted, owner, files)
        self._when_there_is_room(lambda: self._cluster.create_secret(secret), beat, began)
        return pod

    def _when_there_is_room(self, make: Callable[[], Any], beat: Callable[[], None], began: float) -> Any:
        while True:
            try:
                return make()
            except BusyError as err:
                waited_s = time.monotonic() - began
                if waited_s > min(self._config.start_within_s, self._limits.time_s):
                    raise _FailedError(f"the task waited {waited_s:.0f} s for a pod: {err.message}") from err
                until = time.monotonic() + QUOTA_AGAIN_S
                while time.monotonic() < until:
                    beat()
                    time.sleep(TICK_S)

    def _attend(self, pod: _Pod, job: Job, beat: Callable[[], None], began: float) -> Outcome:
        """Wait for a pod's last word about its task, and look at it meanwhile."""
        offered = time.monotonic()
        look_at = offered + LOOK_STARTING_S
        image_bad_since: float | None = None
        while job.outcome is None:
            pod.seat.wait(job, TICK_S)
            beat()
            now = time.monotonic()
            if job.outcome is not None or now < look_at:
                continue
            look_at = now + (LOOK_STARTING_S if job.taken_at is None else LOOK_RUNNING_S)
            found = self._look(pod)
            trouble = pod_failures.look(found)
            if trouble is not None and not trouble.is_waiting:
                raise (_LostError if trouble.is_lost else _FailedError)(trouble.words)
            if now - began > self._limits.time_s + GRACE_S:
                raise _FailedError(f"the app ran longer than the {self._limits.time_s:g} s that the site allows")
            if job.taken_at is not None:
                self._check_heard(pod, now)
                continue
            image_bad_since = (image_bad_since or now) if trouble is not None and trouble.is_image else None
            within_s = min(self._config.start_within_s, self._limits.time_s)
            is_over = now - offered > within_s
            if trouble is not None and image_bad_since and now - image_bad_since > self._config.pull_within_s:
                raise _FailedError(trouble.words)
            if is_over:
                words = [pod_failures.describe_wait(found), *self._cluster.warnings(pod.name)[-1:]]
                raise _FailedError(f"no pod for the task within {within_s:g} s: {'; '.join(dict.fromkeys(words))}")
        return _outcome(job)

    def _look(self, pod: _Pod) -> dict[str, Any] | None:
        try:
            return self._cluster.pod(pod.name)
        except UnreachableError:
            # An API server that is away ends no task: the pod talks to us, not to it.
            return {"status": {"phase": "Unknown"}}

    def _check_heard(self, pod: _Pod, now: float) -> None:
        heard_at = pod.seat.heard_at
        if heard_at is not None and now - heard_at > SILENT_S:
            raise _LostError(f"its pod said nothing for {SILENT_S:g} s: its node, or the way to it, is lost")

    def _drop(self) -> None:
        """End our pod, if there is one, and forget its token."""
        pod, self._pod = self._pod, None
        if pod is None:
            return
        self._endpoint.leave(pod.seat)
        try:
            self._cluster.delete_pod(pod.name, grace_s=pod_spec.STOP_WITHIN_S)
        except FLError as err:
            # It ends by itself when it asks next; the object goes with the next sweep, or with its owner.
            self._say(f"the pod {pod.name} cannot be deleted: {err.message}")

    def _find_owner(self) -> Owner:
        if self._config.owner:
            return self._cluster.owner(self._config.owner)
        name, uid = os.environ.get("FEDFLEET_POD_NAME", ""), os.environ.get("FEDFLEET_POD_UID", "")
        if not name or not uid:
            hint = "name a ServiceAccount of the namespace as owner in pods.toml"
            raise RefusedError("task pods would have no owner, and stay if this runner goes", hint=hint)
        return Owner("Pod", name, uid)


def check_rights(cluster: Cluster, config: PodConfig) -> None:
    """Refuse to start without the rights that are needed, or in a cluster that holds nobody back.

    Raises:
        RefusedError: Naming what is missing, or that RBAC is off.
        UnreachableError: If the API server does not answer.
    """
    needed = [(verb, "pods") for verb in ("create", "get", "list", "delete")] + [("create", "secrets")]
    missing = [f"{verb} {resource}" for verb, resource in needed if not cluster.may(verb, resource)]
    if missing:
        raise RefusedError(
            f"the cluster does not let this site's runner {', '.join(missing)} in namespace {cluster.namespace}",
            hint="helm upgrade the site's chart: it makes the Role that the runner needs",
        )
    if not config.allow_without_rbac and cluster.may("create", "pods", namespace="kube-system"):
        raise RefusedError(NOT_HELD, hint="microk8s enable rbac, or allow_without_rbac = true in pods.toml")


def _outcome(job: Job) -> Outcome:
    """What the pod said, taken for what it is: words of another process."""
    said = job.outcome or {}

    def number(key: str) -> float:
        value = said.get(key)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if is_number and value is not None and value >= 0 else 0.0

    failure, raised = (str(said.get(key) or "")[:4000] for key in ("failure", "raised"))
    if not failure and not job.outputs["answered"].exists():
        failure = "the task's pod brought no answer"
    return Outcome(failure, raised, number("passed_s"), int(number("peak_mib")), bool(said.get("used_gpu")))


def _without_answer(failure: str, began: float) -> Outcome:
    return Outcome(failure, "", time.monotonic() - began, 0, used_gpu=False)


def _nothing() -> None:
    """Between tasks there is nothing to keep alive."""
