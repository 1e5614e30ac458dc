"""``fl secagg``: a site's identity key, and receipts of rounds checked offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl import console
from fl.errors import ConfigError
from fl.secagg.identity import Identity, fingerprint
from fl.secagg.receipt import verify_receipt
from fl.secagg.roster import parse_roster, read_roster
from fl.secagg.storage import read_identity, read_public_key, read_roster_file, write_private_key

app = typer.Typer(no_args_is_help=True, help="Keys and receipts of secure aggregation.")


@app.command()
def key(
    path: Annotated[Path, typer.Argument(help="The private key's file; made if it is missing.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a site's identity key, or read the one that is there, and print its public key for the roster."""
    if not path.exists():
        write_private_key(path, Ed25519PrivateKey.generate())
        console.say(f"wrote {path}; it never leaves this site")
    identity: Identity = read_identity(path, path.stem)
    if as_json:
        console.print_json({"key": identity.public.hex(), "fingerprint": fingerprint(identity.public)})
    else:
        console.say(f"fingerprint {fingerprint(identity.public)}; fl roster add SITE KEY, with this key:")
        console.out.print(identity.public.hex(), markup=False, soft_wrap=True)


@app.command()
def verify(
    receipt: Annotated[Path, typer.Argument(help="A round's receipt.")],
    roster: Annotated[Path, typer.Option("--roster", help="The signed roster of that round.")],
    authority: Annotated[
        str | None, typer.Option(help="The pinned public key of the roster authority: 64 hex digits, or a file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a round's receipt offline, and say what it proves."""
    try:
        data = receipt.read_bytes()
    except OSError as err:
        raise ConfigError(f"cannot read {receipt}: {err.strerror}") from err
    roster_data = read_roster_file(roster)
    pinned = read_public_key(authority) if authority else parse_roster(roster_data).authority
    findings = verify_receipt(data, read_roster(roster_data, authority=pinned), roster_data)
    if as_json:
        console.print_json({**findings.as_dict(), "authority": pinned.hex(), "authority_pinned": bool(authority)})
        return
    for sentence in findings.in_words():
        console.out.print(sentence, markup=False)
    if not authority:
        console.say(
            f"the roster is signed by the authority {fingerprint(pinned)}: compare that with what was told to you, "
            "or pass it as --authority"
        )
