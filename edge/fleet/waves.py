"""Which site belongs to which wave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edge.fleet.config import WaveConfig
from edge.fleet.site_config import Site
from fl.errors import ConfigError

LAST = WaveConfig(name="others")
"""Takes the sites that no wave takes."""


def waves_of(waves: Sequence[WaveConfig], sites: Sequence[Site]) -> list[tuple[WaveConfig, list[str]]]:
    """The waves with their sites; each site is in one, and a wave without sites is left out.

    Guarantees:
        The same file gives the same waves. Nothing is drawn by chance, so that a resumed rollout goes on as it began.
    """
    left = list(sites)
    found = []
    for wave in [*waves, LAST]:
        most = math.ceil(wave.share * len(sites) - 1e-9)
        taken = [site for site in left if has_labels(site, wave.select)][:most]
        if taken:
            found.append((wave, [site.id for site in taken]))
            left = [site for site in left if site not in taken]
    return found


def has_labels(site: Site, wanted: Mapping[str, str]) -> bool:
    """Whether a site has all these labels."""
    return all(str(site.labels.get(key)) == str(value) for key, value in wanted.items())


def chosen(sites: Sequence[Site], names: Sequence[str], labels: Sequence[str]) -> list[Site]:
    """The sites that options name: by id or by ``key=value``; without options all.

    Raises:
        ConfigError: If a label is none, or nobody is left.
    """
    wanted = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals:
            raise ConfigError(f"--label is {label!r}, must be key=value")
        wanted[key] = value
    found = [site for site in sites if (not names or site.id in names) and has_labels(site, wanted)]
    if not found:
        raise ConfigError("no site is meant", hint="fl fleet status lists them")
    return found
