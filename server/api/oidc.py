"""Sign-in at an identity provider: OpenID Connect, authorisation code flow with PKCE (RFC 7636), groups become roles.

``/api/v1/oidc/start`` sends the browser to the provider; it comes back to ``/api/v1/oidc/callback`` with a code, which
is exchanged for an ID token. Believed is only what stands in a token that the provider signed for us (``aud``), for
this very sign-in (``nonce``), begun by this very browser (``state``, in a cookie).

What a sign-in needs to be ended stands in that browser's cookie, and nowhere here: it may come back to another
process, and sign-ins that are begun and left cost nothing. Who changes his own cookie ends his own sign-in; a code is
taken once, by the provider.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import logging
import secrets
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import RedirectResponse
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from fl.errors import UnreachableError
from server.api.auth import address_of
from server.api.config import OidcConfig
from server.api.context import Context, context_of
from server.api.errors import SignInError
from server.api.people import set_cookie
from server.audit import Actor
from server.people import ROLES

log = logging.getLogger(__name__)

START, CALLBACK = "/api/v1/oidc/start", "/api/v1/oidc/callback"
WITHIN_S = 600.0
"""How long a sign-in at the provider may take."""
KEPT_S = 3600.0
"""How long the provider's addresses and keys are kept."""
AGAIN_S = 1.0
"""Keys are fetched again after this time at the earliest, so that wrong tokens cause no storm."""
TIMEOUT_S = 10.0
LEEWAY_S = 60
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
"""Only those with a public key: a token signed with our own secret would be anybody's who knows that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """A sign-in that was begun."""

    state: str
    nonce: str
    verifier: str
    to: str
    until_s: float

    def __str__(self) -> str:
        """As a cookie has it."""
        return base64.urlsafe_b64encode(json.dumps(dataclasses.asdict(self)).encode()).decode().rstrip("=")

    @classmethod
    def of(cls, cookie: str) -> Pending | None:
        """What a cookie says; ``None`` if nothing can be made of it."""
        try:
            facts = json.loads(base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)))
            texts = {name: str(facts[name]) for name in ("state", "nonce", "verifier", "to")}
            return cls(**texts, until_s=float(facts["until_s"]))
        except (ValueError, KeyError, TypeError):
            return None


class Provider:
    """The identity provider.

    Args:
        config: Where it is, and what we are called there.

    Raises:
        ConfigError: If the secret's file cannot be used.
    """

    def __init__(self, config: OidcConfig) -> None:
        self.config = config
        self._secret = config.secret()
        verify = ssl.create_default_context(cafile=str(config.ca_file)) if config.ca_file else True
        self._client = httpx.Client(timeout=TIMEOUT_S, verify=verify, follow_redirects=False)
        self._lock = threading.Lock()
        self._found: tuple[float, dict[str, Any]] | None = None
        self._keys: tuple[float, KeySet] | None = None

    def addresses(self) -> dict[str, Any]:
        """Its endpoints, from its discovery document.

        Raises:
            UnreachableError: If it does not answer, or is another issuer than we were told.
        """
        with self._lock:
            if self._found is None or time.monotonic() - self._found[0] > KEPT_S:
                where = self.config.issuer.rstrip("/") + "/.well-known/openid-configuration"
                found = self._json("GET", where)
                if found.get("issuer") != self.config.issuer:
                    raise UnreachableError(f"{where} is of the issuer {str(found.get('issuer'))[:100]!r}")
                self._found = (time.monotonic(), found)
            return self._found[1]

    def address(self, state: str, nonce: str, verifier: str, back: str) -> str:
        """Where to send the browser."""
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": back,
            "scope": " ".join(self.config.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = str(self.addresses()["authorization_endpoint"])
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urllib.parse.urlencode(query)}"

    def claims(self, code: str, pending: Pending, back: str) -> dict[str, Any]:
        """What the provider says of who signed in.

        Raises:
            SignInError: If the code, or the token that it is exchanged for, is not good.
            UnreachableError: If the provider does not answer.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "code_verifier": pending.verifier,
            "client_id": self.config.client_id,
        }
        auth = httpx.BasicAuth(*map(urllib.parse.quote_plus, (self.config.client_id, self._secret)))
        answer = self._json(
            "POST", str(self.addresses()["token_endpoint"]), data=form, auth=auth if self._secret else None
        )
        claims = self._read(str(answer.get("id_token", "")), pending.nonce)
        wanted = (self.config.groups_claim, self.config.name_claim)
        userinfo = self.addresses().get("userinfo_endpoint")
        if userinfo and any(name not in claims for name in wanted) and answer.get("access_token"):
            bearer = {"Authorization": f"Bearer {answer['access_token']}"}
            more = self._json("GET", str(userinfo), headers=bearer)
            if more.get("sub") == claims["sub"]:  # else it is somebody else's (OpenID Connect Core, 5.3.2)
                claims = {**more, **claims}
        return claims

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _read(self, token: str, nonce: str) -> dict[str, Any]:
        rules = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_S,
            iss={"essential": True, "value": self.config.issuer},
            aud={"essential": True, "value": self.config.client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
        )
        try:
            claims = dict(self._decode(token))
            rules.validate(claims)
        except (JoseError, ValueError) as err:
            log.warning("an ID token of %s is not good: %s", self.config.issuer, err)
            raise SignInError(f"the identity provider's token is not good: {err}"[:200], hint="sign in again") from err
        audience = claims["aud"]
        if isinstance(audience, list) and len(audience) > 1 and claims.get("azp") != self.config.client_id:
            raise SignInError("the identity provider's token is for somebody else", hint="sign in again")
        return claims

    def _decode(self, token: str) -> Mapping[str, Any]:
        try:
            return jwt.decode(token, self._key_set(fresh=False), algorithms=ALGORITHMS).claims
        except (JoseError, ValueError):  # perhaps the provider has new keys
            return jwt.decode(token, self._key_set(fresh=True), algorithms=ALGORITHMS).claims

    def _key_set(self, *, fresh: bool) -> KeySet:
        where = str(self.addresses()["jwks_uri"])
        with self._lock:
            age = time.monotonic() - self._keys[0] if self._keys else KEPT_S
            if self._keys is None or age >= KEPT_S or (fresh and age > AGAIN_S):
                self._keys = (time.monotonic(), KeySet.import_key_set(self._json("GET", where)))  # type: ignore[arg-type]
            return self._keys[1]

    def _json(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        host = urllib.parse.urlsplit(url).netloc
        try:
            answer = self._client.request(method, url, headers=options.pop("headers", None), **options)
            found = answer.json()
        except (httpx.HTTPError, ValueError) as err:
            words = f"the identity provider {host} cannot be reached: {type(err).__name__}"
            raise UnreachableError(words, hint="sign in with a token meanwhile") from err
        if not isinstance(found, dict) or answer.status_code >= 500:
            raise UnreachableError(f"the identity provider {host} answered {answer.status_code}")
        if answer.status_code >= 400:
            words = str(found.get("error_description") or found.get("error") or answer.status_code)[:200]
            raise SignInError(f"the identity provider refused: {words}", hint="sign in again")
        return found


def role_of(config: OidcConfig, groups: Sequence[str]) -> str:
    """The highest role of some groups; empty if they have none."""
    roles = [config.roles[group] for group in groups if group in config.roles] or [config.default_role]
    return max(roles, key=lambda role: ROLES.index(role) if role else -1)


def projects_of(config: OidcConfig, groups: Sequence[str]) -> list[str]:
    """The projects of some groups together; all where no group of the configuration has any."""
    if not config.projects:
        return ["*"]
    return sorted({name for group in groups for name in config.projects.get(group, ())})


def install(app: FastAPI, config: OidcConfig) -> None:
    """Add the two routes to an application.

    Raises:
        ConfigError: If the secret's file cannot be used.
    """
    provider = Provider(config)

    def start(request: Request, to: Annotated[str, Query(max_length=500)] = "/") -> Response:
        context = context_of(request)
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        target = provider.address(state, nonce, verifier, _back(request, context))
        answer = RedirectResponse(target, 303)
        answer.set_cookie(
            _cookie(context),
            str(Pending(state, nonce, verifier, local_path(to), time.time() + WITHIN_S)),
            max_age=int(WITHIN_S),
            path="/",
            secure=context.is_secure,
            httponly=True,
            samesite="lax",  # it has to come along when the provider sends the browser back
        )
        return answer

    def callback(
        request: Request,
        state: Annotated[str, Query(max_length=200)] = "",
        code: Annotated[str, Query(max_length=4096)] = "",
        error: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        context, address = context_of(request), address_of(request)
        context.sign_ins.check(address, what=f"sign-ins from {address}")
        begun = Pending.of(request.cookies.get(_cookie(context), ""))
        is_ours = begun is not None and hmac.compare_digest(begun.state.encode(), state.encode())
        if begun is None or not is_ours or begun.until_s < time.time():
            raise SignInError("this sign-in was not begun here, or took too long", hint="sign in again")
        if error or not code:
            raise SignInError(f"the identity provider refused: {error or 'no code'}", hint="sign in again")
        claims = provider.claims(code, begun, _back(request, context))
        groups = groups_of(config, claims)
        role = role_of(config, groups)
        name = next((str(claims[key]) for key in (config.name_claim, "email", "sub") if claims.get(key)), "user")
        if not role:
            shown = ", ".join(groups[:10]) or "none"
            raise SignInError(f"{name} has no role here; groups: {shown}"[:300], hint="an admin sets [oidc] roles")
        projects = projects_of(config, groups) if role != "admin" else ["*"]
        if not projects:
            raise SignInError(f"{name} has no project here"[:300], hint="an admin sets [oidc] projects")
        actor = Actor(who=name, via="web", address=address)
        person = context.actions.sign_in_from_provider(
            actor, f"{config.issuer} {claims['sub']}"[:255], name, role, projects
        )
        actor = Actor(who=person.name, via="web", address=address)
        session = context.actions.open_session(actor, person, hours=context.access.session_hours)
        answer = RedirectResponse(local_path(begun.to), 303)
        answer.delete_cookie(_cookie(context), path="/", secure=context.is_secure, httponly=True, samesite="lax")
        set_cookie(context, answer, session)
        return answer

    app.add_api_route(START, start, include_in_schema=False)
    app.add_api_route(CALLBACK, callback, include_in_schema=False)
    app.state.oidc_title = config.title


def groups_of(config: OidcConfig, claims: Mapping[str, Any]) -> list[str]:
    """The groups in some claims."""
    found = claims.get(config.groups_claim) or []
    return [str(group) for group in found] if isinstance(found, list) else [str(found)]


def local_path(to: str) -> str:
    """A path of ours to go on to; the start page for anything that leads elsewhere."""
    parts = urllib.parse.urlsplit(to)
    if parts.scheme or parts.netloc or not to.startswith("/") or to.startswith(("//", "/\\")) or "\\" in to:
        return "/"
    return to


def _back(request: Request, context: Context) -> str:
    return (context.public_url or str(request.base_url).rstrip("/")) + CALLBACK


def _cookie(context: Context) -> str:
    return "__Host-fedfleet-oidc" if context.is_secure else "fedfleet-oidc"
