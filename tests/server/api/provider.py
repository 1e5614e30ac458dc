"""A small identity provider on loopback: OpenID Connect, code flow; it checks what a provider checks, and can lie.

It is written from the standard (OpenID Connect Core 1.0, RFC 6749, RFC 7636), with nothing of ``server.api.oidc``.
"""

import base64
import contextlib
import functools
import hashlib
import hmac
import json
import secrets
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

CLIENT, SECRET = "fedfleet", "a secret: with odd/characters"


@functools.cache
def first_key():
    """Made once: that takes longer than most tests."""
    return RSAKey.generate_key(2048, {"kid": "first", "use": "sig", "alg": "RS256"})


class Provider:
    """Who signs in is ``claims``; ``lies`` changes what its ID tokens say, ``header`` how they are signed."""

    def __init__(self):
        self.claims = {"sub": "u-1", "preferred_username": "ada", "groups": ["fl-operators"]}
        self.key = first_key()
        self.signs_with, self.algorithm = self.key, "RS256"
        self.lies, self.userinfo, self.codes = {}, {}, {}
        self.issuer = ""

    def rotate(self):
        """A new key, of another kind."""
        self.key = ECKey.generate_key("P-256", {"kid": "second", "use": "sig", "alg": "ES256"})
        self.signs_with, self.algorithm = self.key, "ES256"

    def forge_with_public_key(self):
        """What a thief tries who knows the public key only: sign with it as if it were a shared secret."""
        self.algorithm = "HS256"

    def authorise(self, query):
        """The browser comes; the user is asked, and says yes. Gives where the browser is sent."""
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT
        assert query["code_challenge_method"] == "S256"
        assert "openid" in query["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        back = urllib.parse.urlencode({"code": code, "state": query["state"]})
        return f"{query['redirect_uri']}?{back}"

    def exchange(self, form, authorization):
        """The centre comes with a code; a code works once, for who has its verifier, and for the same address."""
        expected = f"{urllib.parse.quote_plus(CLIENT)}:{urllib.parse.quote_plus(SECRET)}"
        if authorization != "Basic " + base64.b64encode(expected.encode()).decode():
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            asked is None
            or asked["code_challenge"] != challenge.rstrip(b"=").decode()
            or asked["redirect_uri"] != form.get("redirect_uri")
            or form.get("grant_type") != "authorization_code"
        ):
            return 400, {"error": "invalid_grant", "error_description": "this code is not good"}
        now = int(time.time())
        said = {"iss": self.issuer, "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": asked["nonce"]}
        said = {**said, **self.claims, **self.lies}
        header = {"alg": self.algorithm, "kid": self.key.kid}
        said = {name: value for name, value in said.items() if value is not None}
        if self.algorithm == "HS256":
            token = _by_hand(header, said, self.key.as_pem(private=False))
        else:
            token = jwt.encode(header, said, self.signs_with, [self.algorithm])
        return 200, {"access_token": "for userinfo", "token_type": "Bearer", "id_token": token}


def _by_hand(header, said, secret):
    """A token signed with a secret; the library refuses to do it with a public key."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, said)]
    signature = hmac.digest(secret, b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


@contextlib.contextmanager
def serving():
    """A provider that runs."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            parts = urllib.parse.urlsplit(self.path)
            match parts.path:
                case "/.well-known/openid-configuration":
                    base = provider.issuer
                    places = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
                    found = {f"{name}_endpoint": f"{base}/{path}" for name, path in places.items()}
                    self.answer(200, {"issuer": base, "jwks_uri": f"{base}/keys", **found})
                case "/keys":
                    self.answer(200, {"keys": [provider.key.as_dict(private=False)]})
                case "/userinfo":
                    good = self.headers.get("Authorization") == "Bearer for userinfo"
                    self.answer(200 if good else 401, provider.userinfo if good else {"error": "invalid_token"})
                case _:
                    self.answer(404, {"error": "not_found"})

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            form = dict(urllib.parse.parse_qsl(self.rfile.read(length).decode()))
            self.answer(*provider.exchange(form, self.headers.get("Authorization")))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
