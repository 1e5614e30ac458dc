"""Whether sites are healthy after their upgrade: pods, release, link, soak. Pure: from answers to reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edge.fleet.centre import Seen
from edge.fleet.wanted import IDENTITY_SECRET, Wanted


def answer_of(answers: Mapping[str, Any], fact: str) -> Any:
    """The answer of a fact, whatever its arguments; the first one that was asked."""
    return next((value for name, value in answers.items() if name.startswith(f"{fact}(")), None)


def objects_of(answers: Mapping[str, Any]) -> set[str]:
    """All objects of the cluster that any answer names."""
    return {name for key, value in answers.items() if key.startswith("Objects(") for name in value or ()}


def release_of(answers: Mapping[str, Any], wanted: Wanted) -> dict[str, Any] | None:
    """The latest revision of the site's release, if there is one."""
    name = f"release={wanted.site.release_name})"
    for key, value in answers.items():
        if key.startswith("HelmRelease(") and key.endswith(name) and value:
            return dict(value["revisions"][-1])
    return None


def good_revision(answers: Mapping[str, Any], wanted: Wanted) -> int | None:
    """The revision that runs, or ran before one that failed; ``None``: none ever did."""
    name = f"release={wanted.site.release_name})"
    for key, value in answers.items():
        if key.startswith("HelmRelease(") and key.endswith(name) and value:
            for status in ("deployed", "superseded"):
                good = [int(entry["revision"]) for entry in value["revisions"] if entry["status"] == status]
                if good:
                    return good[-1]
    return None


def restarts(answers: Mapping[str, Any]) -> dict[str, int]:
    """How often the containers of each pod were started again."""
    return {pod["name"]: pod["restarts"] for pod in answer_of(answers, "Pods") or ()}


def is_enrolled(answers: Mapping[str, Any]) -> bool:
    """Whether the site has its identity."""
    return f"secret/{IDENTITY_SECRET}" in objects_of(answers)


def trouble(answers: Mapping[str, Any], wanted: Wanted, seen: Seen | None, *, asks_centre: bool) -> str:
    """What keeps a site from being healthy; empty if nothing does.

    Args:
        answers: Of ``edge.fleet.questions.health``.
        wanted: The site as it shall be.
        seen: The site as the centre sees it.
        asks_centre: Whether the centre must see it.
    """
    if not wanted.has_release:
        return ""
    release = release_of(answers, wanted)
    if release is None:
        return "there is no release"
    if release["status"] != "deployed":
        return f"the release is {release['status']}"
    if release["digest"] != wanted.digest:
        return f"another release runs, {release['digest'] or 'not one of the fleet'}"
    pods = answer_of(answers, "Pods")
    if pods is None:
        return "the cluster does not answer"
    if not pods:
        return "there is no pod"
    for pod in pods:
        if not pod["is_ready"]:
            return f"pod {pod['name']} is not ready: {pod['reason'] or 'no reason given'}"
    if asks_centre:
        if seen is not None and seen.is_waiting:
            return f"the site waits to be let in: fl site approve {wanted.site.id}"
        if seen is None or not seen.is_online:
            return "the link is down: the centre has not heard of the site"
        if seen.version != wanted.version:
            return f"the site says it is {seen.version or 'of no version'}, not {wanted.version}"
    return ""


def restarted(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Which pod was started again, or replaced, between two looks; empty if none was."""
    for name, count in after.items():
        if name not in before:
            return f"pod {name} is new"
        if count > before[name]:
            return f"pod {name} was started again"
    gone = sorted(set(before) - set(after))
    return f"pod {gone[0]} is gone" if gone else ""


class Watch:
    """A wave at its gate: healthy within its time, then for the whole soak without a restart.

    Args:
        sites: Who is watched.
        soak_s: How long all must stay healthy.
        gate_s: How long one may take to become healthy.
        at_s: Now, on a clock that only goes forward.
    """

    def __init__(self, sites: Iterable[str], *, soak_s: float, gate_s: float, at_s: float) -> None:
        self.waiting: dict[str, str] = dict.fromkeys(sites, "not looked at yet")
        """Sites that are not healthy yet, with the reason."""
        self.unhealthy: dict[str, str] = {}
        """Sites that did not become or stay healthy."""
        self.lost: dict[str, str] = {}
        """Sites that cannot be asked now."""
        self._steady: dict[str, Mapping[str, int]] = {}
        self._soak_s, self._gate_s, self._began_s = soak_s, gate_s, at_s
        self._healthy_s: float | None = None

    @property
    def watched(self) -> list[str]:
        """Sites to look at."""
        return [name for name in (*self.waiting, *self._steady) if name not in self.unhealthy]

    def saw(self, name: str, reason: str, restarts: Mapping[str, int]) -> None:
        """A look at a site: what is wrong, and how often its pods were started again."""
        self.lost.pop(name, None)
        if name in self._steady:
            reason = reason or restarted(self._steady[name], restarts)
            if reason:
                self.unhealthy[name] = f"during the soak: {reason}"
        elif reason:
            self.waiting[name] = reason
        else:
            del self.waiting[name]
            self._steady[name] = restarts

    def missed(self, name: str, error: str) -> None:
        """A site that could not be asked: nobody waits for it."""
        self.lost[name] = error

    def is_over(self, at_s: float) -> bool:
        """Whether there is nothing left to wait for; sites that took too long become unhealthy."""
        late = [name for name in self.waiting if name not in self.lost and name not in self.unhealthy]
        if late and at_s - self._began_s > self._gate_s:
            self.unhealthy |= {name: self.waiting[name] for name in late}
            late = []
        if late:
            return False
        self._healthy_s = at_s if self._healthy_s is None else self._healthy_s
        return at_s - self._healthy_s >= self._soak_s
