"""``fl fleet bundle``: make and check the bundles that sites get."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl import console

app = typer.Typer(
    help="Make and check bundles: all that a site needs, for sites without an internet.", no_args_is_help=True
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def bundle() -> None:
    """Make and check bundles: all that a site needs, for sites without an internet."""


@app.command()
def build(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE.yaml", help="What is to be in it.")],
    out: Annotated[Path, typer.Option(help="Directory of the bundle.")] = Path("bundle"),
    key: Annotated[Path | None, typer.Option(help="SSH key to sign with; a .pub file: one that the agent has.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a bundle, or bring one up to date, and sign it."""
    from edge.fleet import bundle

    manifest = bundle.build(file, out, key=key)
    _report(out, manifest.version, manifest.blobs, len(manifest.files), len(manifest.images), as_json)
    if key is None:
        console.say("it is not signed: give --key, and release.signers in the fleet file")


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle.")] = Path("bundle"),
    signers: Annotated[Path | None, typer.Option(help="Who may sign: ssh-keygen's allowed signers, for fleet.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check everything in a bundle against its manifest, and the manifest against its signature."""
    from edge.fleet import bundle

    manifest = bundle.verify(out, signers=signers)
    _report(out, manifest.version, manifest.blobs, len(manifest.files), len(manifest.images), as_json)
    if signers is None:
        console.say("its signature was not looked at: give --signers")


def _report(out: Path, version: str, blobs: dict[str, int], files: int, images: int, as_json: bool) -> None:
    size = sum(blobs.values())
    if as_json:
        facts = {"bundle": str(out), "version": version, "files": files, "images": images, "size_bytes": size}
        console.print_json(facts)
    else:
        console.say(f"{out}: release {version}, {files} files, {images} images, {console.human_bytes(size)}")
