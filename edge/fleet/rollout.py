"""The rollout: wave after wave, staged, upgraded between rounds, gated, and taken back when it goes wrong.

Everything that changes a site is written down before; so an interrupted rollout goes on where it stopped, and every
step can be done twice.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edge import windows
from edge.fleet import gate
from edge.fleet.centre import Centre, Seen
from edge.fleet.config import Fleet
from edge.fleet.hands import Answer, Hands
from edge.fleet.state import UNTOUCHED, RolloutState, Store, WaveState, now
from edge.fleet.wanted import Wanted
from fl.config import share_or_count
from fl.errors import UnreachableError

LOOK_S = 5.0
"""Pause between two looks at rounds and health; shorter for a short soak."""

LATER = "deferred sites"
UNREACHABLE = "unreachable"
OUTSIDE = "outside its window"


class Paused(Exception):  # noqa: N818 - not an error
    """The rollout waits for a person."""


class Stopped(Exception):  # noqa: N818
    """The rollout ended before its last wave.

    Args:
        reason: Why.
        wave: In which wave.
        guilty: Sites at fault.
    """

    def __init__(self, reason: str, wave: WaveState, guilty: Sequence[str]) -> None:
        super().__init__(reason)
        self.wave, self.guilty = wave, list(guilty)


class Rollout:
    """Brings a rollout to its end.

    Args:
        fleet: The fleet file.
        wanted: What each site shall be.
        state: Where it stands; changed and saved as it goes on.
        store: Where it is saved.
        hands: What is done at sites.
        centre: What is asked there; ``None``: nothing is, and the link is not part of the gate.
        say: Told what happens, a line each.
        changed: Called whenever a site's status changed, for a table.
        wave_done: Called after each wave.
    """

    def __init__(
        self,
        fleet: Fleet,
        wanted: Mapping[str, Wanted],
        state: RolloutState,
        store: Store,
        hands: Hands,
        centre: Centre | None,
        *,
        say: Callable[[str], None],
        changed: Callable[[], None] = lambda: None,
        wave_done: Callable[[WaveState], None] = lambda wave: None,
    ) -> None:
        self.fleet, self.wanted, self.state, self.store = fleet, wanted, state, store
        self._hands, self._centre, self._say, self._changed = hands, centre, say, changed
        self._wave_done = wave_done

    def run(self) -> None:
        """Go on until it is completed, stopped or paused; ``state.status`` says which.

        Raises:
            ProcessError: If the worker ends; the rollout can be resumed.
        """
        state = self.state
        state.status, state.reason = "running", ""
        self._save()
        try:
            for wave in state.waves:
                if not wave.is_done:
                    self._wave(wave)
            self._deferred()
        except Paused as pause:
            state.status, state.reason = "paused", str(pause)
        except Stopped as stop:
            self._say(f"stopped in wave {stop.wave.name}: {stop}")
            state.status, state.reason = "stopped", f"wave {stop.wave.name}: {stop}"
            self._save()
            self._take_back(stop)
        else:
            state.status = "completed"
        state.ended = now() if state.status != "paused" else ""
        self._save()
        if state.status != "paused":
            self.store.conclude(state)

    # ---- one wave ----

    def _wave(self, wave: WaveState) -> None:
        sites = [name for name in wave.sites if self._status(name) not in ("done", "unchanged", "deferred")]
        self._say(f"wave {wave.name}: {len(sites)} of {len(wave.sites)} sites")
        self._windows(sites)
        self._stage(wave, sites)
        self._check_reach(wave)
        staged = [name for name in sites if self._status(name) in ("staged", "releasing", "released")]
        if staged:
            self._await_quiet(wave)
            self._release(wave, staged)
        self._check_failed(wave)
        released = [name for name in wave.sites if self._status(name) == "released"]
        self._pass_gate(wave, released)
        healthy = [name for name in released if self._status(name) == "released"]
        changed = [name for name in healthy if self.state.sites[name].changed]
        if changed and self.fleet.rollout.smoke is not None and not self.state.smoke:
            self._smoke(wave, changed)
        for name in healthy:
            self._set(name, "done" if name in changed else "unchanged")
        wave.is_done = True
        self._save()
        self._wave_done(wave)

    def _windows(self, sites: Iterable[str]) -> None:
        """Put off the sites that may not be changed now."""
        moment = datetime.datetime.now(datetime.UTC)
        for name in sites:
            window = self.fleet.site(name).window
            if window is not None and not self.state.force and not windows.parse(window).is_open(moment):
                self._set(name, "deferred", f"{OUTSIDE}, {window}")

    def _stage(self, wave: WaveState, sites: Iterable[str]) -> None:
        waiting = [name for name in sites if self._status(name) in ("waiting", "staging", "failed", "unhealthy")]
        for answer in self._each(wave, waiting, "stage", before=lambda name: self._set(name, "staging", save=False)):
            if not answer.ok:
                self._went_wrong(answer)
                continue
            site = self.state.sites[answer.site]
            if not site.is_known:
                site.before, site.is_known = answer.result["good_revision"], True
            site.is_enrolling = not answer.result["is_enrolled"] and self.wanted[answer.site].has_release
            site.changed = site.changed or bool(answer.result["changed"])
            self._set(answer.site, "staged")
        self._pause_if_asked()

    def _release(self, wave: WaveState, sites: Iterable[str]) -> None:
        def arguments(name: str) -> Mapping[str, Any]:
            return {"token": self._token(name)} if self.state.sites[name].is_enrolling else {}

        ready = [name for name in sites if self._has_token(name)]
        for answer in self._each(
            wave, ready, "release", before=lambda name: self._set(name, "releasing"), arguments=arguments
        ):
            if not answer.ok:
                self._went_wrong(answer)
                continue
            site = self.state.sites[answer.site]
            site.changed = site.changed or bool(answer.result["changed"])
            self._set(answer.site, "released")
        self._pause_if_asked()

    def _went_wrong(self, answer: Answer) -> None:
        """Out of reach is no failure, whether before or in the middle: its next turn brings it to its end."""
        if answer.kind == UNREACHABLE:
            self._set(answer.site, "deferred", answer.error)
        else:
            self._set(answer.site, "failed", answer.error)
        self._say(f"{answer.site}: {'deferred' if answer.kind == UNREACHABLE else 'failed'}: {answer.error}")

    def _has_token(self, name: str) -> bool:
        """Whether a site that needs a join token can get one; it is made when its turn comes."""
        if not self.state.sites[name].is_enrolling or self._centre is not None:
            return True
        self._set(name, "failed", "the site has no identity, and without a centre there is no join token")
        return False

    def _token(self, name: str) -> str:
        assert self._centre is not None
        return self._centre.join_token(name)

    # ---- what decides ----

    def _check_reach(self, wave: WaveState) -> None:
        """Many sites out of reach are a sign that the fault is here; a single one never is."""
        lost = [name for name in self.state.of("deferred") if not self.state.sites[name].reason.startswith(OUTSIDE)]
        total = len(self.state.sites)
        if wave.name != LATER and len(lost) > max(1, self.fleet.rollout.max_unreachable * total):
            raise Paused(f"{len(lost)} of {total} sites are out of reach, more than rollout.max_unreachable")

    def _check_failed(self, wave: WaveState) -> None:
        failed = [name for name in wave.sites if self._status(name) == "failed"]
        if failed and len(failed) >= share_or_count(self.fleet.rollout.abort.failed, len(wave.sites)):
            raise Stopped(f"{_listed(failed)} failed: {self.state.sites[failed[0]].reason}", wave, failed)

    def _await_quiet(self, wave: WaveState) -> None:
        """Until no round is open, or the one that was has closed and the next is only seconds old."""
        if self._centre is None or self.state.force or not self.fleet.rollout.freeze_rounds:
            return
        began = time.monotonic()
        first = self._open_rounds()
        open_now = first
        while any(run in open_now and open_now[run] == number for run, number in first.items()):
            run, number = next(iter(open_now.items()))
            if open_now == first and time.monotonic() - began < LOOK_S:
                self._say(f"wave {wave.name}: waiting for round {number} of {run} to close")
            if time.monotonic() - began > self.fleet.rollout.round_wait_s:
                raise Paused(f"round {number} of {run} is still open; fl fleet resume --force does not wait for it")
            self._pause_if_asked()
            time.sleep(min(LOOK_S, 1.0))
            open_now = self._open_rounds()

    def _open_rounds(self) -> Mapping[str, int]:
        assert self._centre is not None
        try:
            return self._centre.open_rounds()
        except UnreachableError as error:
            raise Paused(f"the centre cannot be asked for open rounds: {error.message}") from error

    def _pass_gate(self, wave: WaveState, sites: Sequence[str]) -> None:
        """All healthy within their time, and then for the soak without a restart. Unchanged sites need no soak."""
        rollout = self.fleet.rollout
        changed = [name for name in sites if self.state.sites[name].changed]
        soak_s = rollout.soak_s if changed else 0.0
        watch = gate.Watch(sites, soak_s=soak_s, gate_s=rollout.gate_s, at_s=time.monotonic())
        pause_s = min(LOOK_S, max(soak_s / 10, 0.2))
        while sites:
            self._look(wave, watch)
            is_over = watch.is_over(time.monotonic())
            for name, reason in watch.unhealthy.items():
                if self._status(name) != "unhealthy":
                    self._set(name, "unhealthy", reason)
            self._check_health(wave)
            if is_over:
                break
            self._pause_if_asked()
            time.sleep(pause_s)
        for name, error in watch.lost.items():
            if name in watch.waiting:
                self._set(name, "deferred", f"out of reach since its upgrade: {error}")
        healthy = [name for name in sites if self._status(name) == "released"]
        self._enrolled(wave, [name for name in healthy if self.state.sites[name].is_enrolling])

    def _look(self, wave: WaveState, watch: gate.Watch) -> None:
        """One look at each site."""
        seen = self._seen()
        for answer in self._each(wave, watch.watched, "health"):
            if not answer.ok:
                watch.missed(answer.site, answer.error)
                continue
            name, asks_centre = answer.site, self._centre is not None
            reason = gate.trouble(answer.result, self.wanted[name], seen.get(name), asks_centre=asks_centre)
            watch.saw(name, reason, gate.restarts(answer.result))

    def _check_health(self, wave: WaveState) -> None:
        bad = [name for name in wave.sites if self._status(name) == "unhealthy"]
        if bad and len(bad) >= share_or_count(self.fleet.rollout.abort.unhealthy, len(wave.sites)):
            raise Stopped(f"{_listed(bad)} not healthy: {self.state.sites[bad[0]].reason}", wave, bad)

    def _seen(self) -> Mapping[str, Seen]:
        if self._centre is None:
            return {}
        try:
            return self._centre.sites()
        except UnreachableError as error:
            self._say(f"the centre does not answer: {error.message}")
            return {}

    def _enrolled(self, wave: WaveState, sites: Iterable[str]) -> None:
        """No join token is left at a site that has its identity."""
        for answer in self._each(wave, sites, "enrolled"):
            if answer.ok:
                self.state.sites[answer.site].is_enrolling = False
            else:
                self._say(f"{answer.site}: its join token, used up, is still there: {answer.error}")

    def _smoke(self, wave: WaveState, sites: Sequence[str]) -> None:
        """A round with real training, before more sites are touched."""
        rollout = self.fleet.rollout
        if self._centre is None:
            raise Paused("rollout.smoke needs a centre")
        assert rollout.smoke is not None
        self._say(f"wave {wave.name}: smoke run {rollout.smoke.name} with {_listed(sites)}")
        failed = self._centre.smoke(rollout.smoke, sites, rollout.smoke_s)
        self.state.smoke = failed or "completed"
        self._save()
        if failed:
            self.state.smoke = ""
            raise Stopped(f"the smoke run failed: {failed}", wave, sites)

    # ---- afterwards ----

    def _deferred(self) -> None:
        """One more turn for the sites that were out of reach; those that still are stay for the next resume."""
        late = self.state.of("deferred")
        if not late:
            return
        for name in late:
            self._set(name, "waiting", save=False)
        last = max(self.state.waves, key=lambda wave: wave.parallel)
        self._wave(WaveState(name=LATER, parallel=last.parallel, sites=tuple(late)))

    def _take_back(self, stop: Stopped) -> None:
        """Sites of the scope back to the release that they had."""
        scope = {
            "none": [],
            "site": stop.guilty,
            "wave": list(stop.wave.sites),
            "all": list(self.state.sites),
        }[self.fleet.rollout.rollback]
        if self.roll_back(scope, stop.wave.parallel) and self.state.of("rolled back"):
            self.state.status = "rolled back"

    def roll_back(self, names: Iterable[str], parallel: int) -> bool:
        """Bring sites back to the release that they had before this rollout; whether all are.

        Sites that it has not touched are left alone.
        """
        sites = self.state.sites
        touched = [name for name in names if sites[name].is_known and sites[name].status not in UNTOUCHED]
        if touched:
            self._say(f"rolling back {_listed(touched)}")
        everything = True
        wave = WaveState(name="rollback", parallel=parallel, sites=tuple(touched))
        arguments = lambda name: {"revision": self.state.sites[name].before}  # noqa: E731
        for answer in self._each(wave, touched, "roll_back", arguments=arguments, stops=False):
            if answer.ok:
                self._set(answer.site, "rolled back", self.state.sites[answer.site].reason)
            else:
                everything = False
                self._say(f"{answer.site}: could not be rolled back: {answer.error}")
                self._set(answer.site, "failed", f"not rolled back: {answer.error}")
        return everything

    # ---- small things ----

    def _each(
        self,
        wave: WaveState,
        sites: Iterable[str],
        do: str,
        *,
        before: Callable[[str], None] = lambda name: None,
        arguments: Callable[[str], Mapping[str, Any]] = lambda name: {},
        stops: bool = True,
    ) -> Iterable[Answer]:
        def step(name: str, what: str) -> None:
            self.state.sites[name].step = what
            self._changed()

        answers = self._hands.each(
            sites,
            do,
            parallel=wave.parallel,
            arguments=arguments,
            started=before,
            step=step,
            is_stopping=lambda: stops and self.store.is_pausing,
            tick=self._changed,
        )
        for answer in answers:
            site = self.state.sites[answer.site]
            site.seconds = round(site.seconds + answer.seconds, 1)
            yield answer

    def _status(self, name: str) -> str:
        return self.state.sites[name].status

    def _set(self, name: str, status: Any, reason: str = "", *, save: bool = True) -> None:
        site = self.state.sites[name]
        site.status, site.reason, site.step = status, reason, ""
        if save:
            self._save()
        self._changed()

    def _save(self) -> None:
        self.store.save(self.state)

    def _pause_if_asked(self) -> None:
        if self.store.is_pausing:
            raise Paused("fl fleet pause")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
