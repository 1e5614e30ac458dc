"""Where the hosts are and how to log in: for pyinfra and for OpenSSH from one file, so that both mean the same host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge.fleet.config import Fleet
from edge.fleet.site_config import Site
from edge.fleet.wanted import Wanted
from fl.errors import ConfigError
from fl.files import write_atomic

KEEPALIVE_S = 15
"""A connection on which nothing comes back is given up after four times this; pyinfra alone would wait for ever."""

COMMON = f"""\
Host *
  ServerAliveInterval {KEEPALIVE_S}
  ServerAliveCountMax 4
  StrictHostKeyChecking yes
  BatchMode yes
  ForwardAgent no
"""


def ssh_config(fleet: Fleet) -> str:
    """A configuration of OpenSSH in which each site's id is a host."""
    blocks = []
    for site in fleet.sites:
        options = {
            "HostName": site.host,
            "Port": str(site.ssh.port),
            "User": site.ssh.user,
            "IdentityFile": _quoted(site.ssh.key_file),
            "IdentitiesOnly": "yes" if site.ssh.key_file else None,
            "UserKnownHostsFile": _quoted(site.ssh.known_hosts),
            "ConnectTimeout": str(round(site.ssh.connect_timeout_s)),
            "ProxyJump": site.ssh.jump,
        }
        lines = [f"  {key} {value}" for key, value in options.items() if value]
        blocks.append("\n".join([f"Host {site.id}", *lines]))
    return "\n\n".join([*blocks, COMMON])


def hosts(fleet: Fleet, wanted: Mapping[str, Wanted], config: Path) -> list[tuple[str, dict[str, Any]]]:
    """Names and data as pyinfra's inventory takes them.

    Args:
        fleet: The fleet file.
        wanted: What each site shall be; sites that are not in it are left out.
        config: File with ``ssh_config``'s text.
    """
    return [(site.id, host_data(site, wanted[site.id], config)) for site in fleet.sites if site.id in wanted]


def host_data(site: Site, wanted: Wanted, config: Path) -> dict[str, Any]:
    """One host's data."""
    data: dict[str, Any] = {
        "ssh_config_file": str(config),
        "ssh_known_hosts_file": str(site.ssh.known_hosts),
        "ssh_strict_host_key_checking": "yes",
        "ssh_paramiko_connect_kwargs": {"banner_timeout": 30, "auth_timeout": 30},
        "_timeout": 900,
        "fedfleet_site": site.id,
        "fedfleet": wanted.to_dict(),
    }
    if site.ssh.key_file:
        data |= {"ssh_key": str(site.ssh.key_file), "ssh_allow_agent": False, "ssh_look_for_keys": False}
    if site.ssh.user != "root":
        data["_sudo"] = True
    return data


def write_ssh_config(fleet: Fleet, directory: Path) -> Path:
    """The configuration as a file in the fleet's directory."""
    for site in fleet.sites:
        if site.ssh.key_file and not site.ssh.key_file.is_file():
            raise ConfigError(f"no such file: {site.ssh.key_file}, ssh.key_file of site {site.id}")
    path = (directory / "ssh_config").resolve()
    write_atomic(path, ssh_config(fleet), mode=0o600)
    return path


def inventory_text(fleet: Fleet, wanted: Mapping[str, Wanted], config: Path) -> str:
    """An ``inventory.py`` for plain pyinfra."""
    listed = json.dumps([[name, data] for name, data in hosts(fleet, wanted, config)], indent=1, ensure_ascii=True)
    return (
        f'"""Inventory of the fleet {fleet.fleet.name}, made from its fleet file by `fl fleet inventory`."""\n\n'
        f"import json\n\nhosts = [(name, data) for name, data in json.loads(r'''\n{listed}\n''')]\n"
    )


def _quoted(path: Path | None) -> str | None:
    return f'"{path}"' if path is not None and " " in str(path) else str(path) if path is not None else None
