"""``fl site enrol`` and ``fl site check-cluster``: what the site's chart runs before the site itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl import console

app = typer.Typer(help="Run a site, or keep the list of sites.", no_args_is_help=True)


@app.callback()
def site() -> None:
    """Run a site, or keep the list of sites."""


@app.command()
def enrol(
    secret: Annotated[str, typer.Option(help="Secret of this namespace that keeps the site's identity.")],
    home: Annotated[Path | None, typer.Option(help="The site's home. [dim]default: .fedfleet/site[/]")] = None,
    token: Annotated[
        str | None, typer.Option(metavar="TOKEN|@FILE|-", help="Join with this, if the Secret is empty.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="TOML file with keys of site.toml that replace what it has.")
    ] = None,
) -> None:
    """Inside a cluster: be the site that a Secret knows, or join and let it know.

    The Secret must be there; with an empty one the token is used, once. A token file that is missing is no error when
    the Secret knows the site: the token can be deleted after the join.
    """
    from edge.cluster.identity import enrol as enrol_with
    from edge.cluster.secret import ClusterSecret
    from edge.home import DEFAULT_HOME, Home
    from edge.join_command import read_token

    is_missing = token is not None and token.startswith("@") and not Path(token[1:]).exists()
    text = "" if token is None or is_missing else read_token(token)
    enrol_with(Home(home or DEFAULT_HOME), ClusterSecret(secret), text, settings, say=console.say)


@app.command("check-cluster")
def check_cluster(
    pods: Annotated[Path, typer.Argument(help="The site's pods.toml.")],
) -> None:
    """Inside a cluster: say whether this account may make task pods there and nothing elsewhere.

    Ends with status 2 if a right is missing, or if the cluster's RBAC is off, so that rights hold nobody back.
    """
    from edge.runner.pod import check_rights
    from edge.runner.pod_cluster import Cluster
    from edge.runner.pod_config import PodConfig

    config = PodConfig.from_file(pods)
    check_rights(Cluster(config.namespace), config)
    console.say(f"the runner may make task pods in namespace {config.namespace}")
