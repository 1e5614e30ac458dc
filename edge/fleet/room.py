"""Tells the control room how a rollout goes, so that its audit has who rolled out what, when, and how that ended."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Literal

import httpx

from edge.fleet.config import CentreSection
from edge.fleet.state import RolloutState
from fl import __version__
from fl.errors import ConfigError
from fl.files import read_secret

What = Literal["begin", "resume", "wave", "end", "rollback"]
LONGEST_REASON = 500


class Room:
    """The control room of a fleet file's ``centre``.

    A rollout does not depend on it: what it does not take is said, once, and the rollout goes on.

    Args:
        config: Its ``room``, ``token_file`` and ``ca_file``; without, or without ``room``, nothing is told.
        say: Told what went wrong.
        transport: For tests.

    Raises:
        ConfigError: If the token or the certificate authority cannot be read.
    """

    def __init__(
        self,
        config: CentreSection | None,
        say: Callable[[str], object],
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._say, self._has_said = say, False
        self._http: httpx.Client | None = None
        if config is None or config.room is None or config.token_file is None:
            return
        verify: ssl.SSLContext | bool = True
        if config.ca_file is not None:
            try:
                verify = ssl.create_default_context(cafile=str(config.ca_file))
            except OSError as err:
                raise ConfigError(f"cannot read centre.ca_file {config.ca_file}: {err.strerror or err}") from err
        self._http = httpx.Client(
            base_url=f"{config.room.rstrip('/')}/api/v1/",
            verify=verify,
            headers={"Authorization": f"Bearer {read_secret(config.token_file)}", "User-Agent": f"fl/{__version__}"},
            timeout=config.timeout_s,
            transport=transport,
        )

    def tell(self, state: RolloutState, what: What, *, wave: str = "") -> None:
        """Write down where a rollout stands."""
        if self._http is None:
            return
        note = {
            "rollout": state.id,
            "what": what,
            "version": state.version,
            "status": state.status,
            "wave": wave,
            "reason": state.reason[:LONGEST_REASON],
            "sites": state.counts(),
        }
        try:
            answer = self._http.post(f"fleets/{state.fleet}/rollouts", json=note)
        except httpx.HTTPError as err:
            self._complain(str(err) or type(err).__name__)
            return
        if answer.is_error:
            self._complain(_words(answer))

    def close(self) -> None:
        """Close the connection."""
        if self._http is not None:
            self._http.close()

    def _complain(self, why: str) -> None:
        if not self._has_said:
            self._say(f"the control room does not write this rollout down: {why}")
        self._has_said = True


def _words(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"it answers with {answer.status_code}"
