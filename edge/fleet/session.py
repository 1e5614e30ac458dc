"""One look at a fleet: its file, what it asks for, its directory, and hands to work with."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.fleet.config import Fleet
from edge.fleet.hands import COMMAND, Hands
from edge.fleet.inventory import hosts, write_ssh_config
from edge.fleet.site_config import Site
from edge.fleet.state import Store
from edge.fleet.wanted import Wanted, wanted
from edge.fleet.waves import chosen
from edge.fleet.yaml_file import read_yaml
from fl.errors import InputError

HOME = Path(".fedfleet/fleet")


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """A fleet that is worked on."""

    fleet: Fleet
    wanted: dict[str, Wanted]
    """Of the sites that are meant."""
    store: Store
    worker: Sequence[str] = COMMAND
    """The worker's command line."""

    @property
    def sites(self) -> list[Site]:
        """The sites that are meant."""
        return [site for site in self.fleet.sites if site.id in self.wanted]

    @contextlib.contextmanager
    def hands(self, *, executes: bool, hold: Sequence[int] = ()) -> Iterator[Hands]:
        """A worker for these sites.

        Raises:
            InputError: If this install has no pyinfra.
        """
        if importlib.util.find_spec("pyinfra") is None:
            raise InputError("fl fleet needs pyinfra", hint="pip install 'fedfleet[edge]'")
        config = write_ssh_config(self.fleet, self.store.directory)
        data = hosts(self.fleet, self.wanted, config)
        timeout_s = max(site.ssh.connect_timeout_s for site in self.sites)
        with Hands(
            data,
            log=self.store.log,
            executes=executes,
            connect_timeout_s=timeout_s,
            command=self.worker,
            hold=hold,
        ) as hands:
            yield hands


def open_fleet(
    file: Path,
    *,
    home: Path | None = None,
    names: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Session:
    """Read a fleet file and its bundle.

    Args:
        file: The fleet file.
        home: Directory of all fleets' states; the default is ``.fedfleet/fleet``.
        names: Sites that are meant; without names and labels all are.
        labels: Labels of the sites that are meant, ``key=value``.

    Raises:
        InputError: If file, bundle or options cannot be used.
    """
    fleet = Fleet.from_dict(read_yaml(file), beside=file.resolve().parent)
    for name in names:
        fleet.site(name)
    meant = {site.id for site in chosen(fleet.sites, names, labels)}
    store = Store((home or HOME).resolve(), fleet.fleet.name)
    store.create()
    return Session(fleet, {name: one for name, one in wanted(fleet).items() if name in meant}, store)
