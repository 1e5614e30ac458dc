"""Who gets in, as what, and what is kept from them."""

import hashlib
import json

import pytest

from server import audit
from server.api.errors import TooOftenError
from server.api.limits import Limit
from server.store.runs import AccessToken, WebSession
from tests.server.api import kit


def status(answer, code):
    assert answer.status_code == code, answer.text
    return answer


def sign_in(room, user, role="viewer", projects=("*",)):
    """A browser of a user, and its CSRF token."""
    room.people.add_user(kit.OPERATOR, user, role, projects)
    browser = room.client(token=None)
    made = room.people.add_token(kit.OPERATOR, user)
    said = status(browser.post("/api/v1/session", json={"token": made.secret}), 200)
    return browser, said


# ---- tokens ----


def test_nobody_sees_anything_without_signing_in(room):
    answer = status(room.client(token=None).get("/api/v1/runs"), 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "fl user token" in answer.json()["hint"]


@pytest.mark.parametrize("token", ["", "x", "fl_" + "A" * 43])
def test_a_wrong_token_is_refused(same_room, token):
    answer = same_room.client(token=None).get("/api/v1/runs", headers={"Authorization": f"Bearer {token}"})
    assert status(answer, 401).json()["title"] == "SignInError"


def test_a_token_ends_when_it_expires_or_is_revoked_or_its_user_is_disabled(room):
    room.people.add_user(kit.OPERATOR, "ada", "viewer")
    made = room.people.add_token(kit.OPERATOR, "ada", days=1)
    client = room.client(made.secret)
    status(client.get("/api/v1/me"), 200)
    now = room.people.now
    room.people.now = lambda: now() + 2 * 86400
    status(client.get("/api/v1/me"), 401)
    room.people.now = now
    second = room.people.add_token(kit.OPERATOR, "ada")
    room.people.revoke_token(kit.OPERATOR, "ada", hashlib.sha256(made.secret.encode()).hexdigest()[:12])
    status(client.get("/api/v1/me"), 401)
    status(room.client(second.secret).get("/api/v1/me"), 200)
    room.people.disable_user(kit.OPERATOR, "ada")
    status(room.client(second.secret).get("/api/v1/me"), 401)


def test_secrets_are_neither_in_the_store_nor_in_the_audit(room):
    browser, _said = sign_in(room, "ada")
    secret = room.people.add_token(kit.OPERATOR, "ada").secret
    cookie = browser.cookies["__Host-fedfleet"]
    room.store.close()
    kept = b"".join(path.read_bytes() for path in room.folder.glob("home/store.db*"))
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in kept
    assert secret.encode() not in kept
    assert cookie.encode() not in kept


# ---- roles and projects ----

CHANGES = [
    ("POST", "/api/v1/users", {"name": "eve"}, "admin"),
    ("PUT", "/api/v1/users/ada/role", {"role": "admin"}, "admin"),
    ("POST", "/api/v1/users/ada/disable", None, "admin"),
    ("POST", "/api/v1/users/eve/tokens", {}, "admin"),
    ("GET", "/api/v1/users", None, "admin"),
    ("GET", "/api/v1/audit", None, "admin"),
    ("GET", "/api/v1/audit/verify", None, "admin"),
    ("GET", "/api/v1/audit/export", None, "admin"),
    ("POST", "/api/v1/runs", {"file": "x"}, "operator"),
    ("POST", "/api/v1/runs/1/stop", None, "operator"),
    ("POST", "/api/v1/sites", {"id": "east"}, "operator"),
    ("POST", "/api/v1/sites/north/revoke", {}, "operator"),
    ("PUT", "/api/v1/aliases/production", {"model": 1}, "operator"),
]


@pytest.fixture(scope="module")
def lower(same_room):
    """By role: somebody of the one below it."""
    return {"operator": same_room.user("ada", "viewer"), "admin": same_room.user("bob", "operator")}


@pytest.mark.parametrize(("method", "path", "body", "role"), CHANGES)
def test_a_lower_role_is_refused_and_nothing_changes(same_room, lower, method, path, body, role):
    with same_room.store.read() as session:
        before = len(list(audit.rows(session)))
    answer = status(lower[role].request(method, path, json=body), 403)
    assert f"this needs {role}" in answer.json()["detail"]
    with same_room.store.read() as session:
        assert len(list(audit.rows(session))) == before


def test_a_run_of_another_project_looks_like_one_that_is_not_there(room):
    client = room.user("ada", "operator", ["default"])
    for method, path in (
        ("GET", "runs/20261126-secret"),
        ("GET", "runs/2"),
        ("GET", "runs/2/rounds"),
        ("GET", "runs/2/timeline"),
        ("GET", "runs/2/curves"),
        ("GET", "runs/2/log"),
        ("POST", "runs/2/stop"),
        ("GET", "models/2"),
        ("GET", "models/2/file"),
        ("GET", "events?run=20261126-secret"),
    ):
        hidden = status(client.request(method, f"/api/v1/{path}"), 404).json()
        absent = client.request(method, "/api/v1/" + path.replace("20261126-secret", "9").replace("2", "9")).json()
        assert hidden["title"] == absent["title"] == "NotFoundError"
    assert [run["name"] for run in client.get("/api/v1/runs").json()["items"]] == ["20261126-digits"]
    assert [model["run"] for model in client.get("/api/v1/models").json()["items"]] == ["20261126-digits"]
    assert {row["name"] for row in client.get("/api/v1/usage").json()} == {"20261126-digits"}
    status(client.get("/api/v1/compare?run=1&run=2"), 404)
    status(client.post("/api/v1/runs", json={"file": "x", "project": "radiology"}), 404)
    assert "sees some projects only" in status(client.post("/api/v1/sites", json={"id": "e"}), 403).json()["detail"]
    status(client.get("/metrics"), 403)


def test_a_site_does_not_name_the_run_of_a_project_that_is_hidden(room):
    client = room.user("ada", "viewer", ["radiology"])
    assert "digits" not in client.get("/api/v1/sites").text
    assert client.get("/api/v1/sites/north").json()["replies"] == []


def test_a_user_makes_tokens_for_themselves_only(room):
    client = room.user("ada")
    made = status(client.post("/api/v1/users/ada/tokens", json={"name": "laptop", "days": 7}), 201).json()
    status(room.client(made["token"]).get("/api/v1/me"), 200)
    room.people.add_user(kit.OPERATOR, "bob")
    status(client.post("/api/v1/users/bob/tokens", json={}), 403)
    (me,) = [user for user in room.client().get("/api/v1/users").json() if user["name"] == "ada"]
    token = next(token for token in me["tokens"] if token["name"] == "laptop")
    status(client.delete(f"/api/v1/users/ada/tokens/{token['id']}"), 204)
    status(room.client(made["token"]).get("/api/v1/me"), 401)


def test_the_last_admin_can_neither_be_disabled_nor_demoted(room):
    admin = room.user("ada", "admin")
    assert "last admin" in status(admin.post("/api/v1/users/ada/disable"), 422).json()["detail"]
    status(admin.put("/api/v1/users/ada/role", json={"role": "viewer"}), 422)
    room.people.add_user(kit.OPERATOR, "bob", "admin")
    status(admin.put("/api/v1/users/ada/role", json={"role": "viewer"}), 204)


def test_every_change_of_people_is_in_the_audit_with_who_and_from_where(room):
    admin = room.user("ada", "admin")
    status(admin.post("/api/v1/users", json={"name": "bob", "projects": ["xray"]}), 201)
    status(admin.put("/api/v1/users/bob/role", json={"role": "operator"}), 204)
    rows = admin.get("/api/v1/audit", params={"who": "ada"}).json()["items"]
    assert [(row["action"], row["subject"], row["via"]) for row in rows] == [
        ("user.role", "bob", "api"),
        ("user.add", "bob", "api"),
    ]
    assert rows[0]["before"] == {"role": "viewer", "projects": ["xray"]}
    assert rows[0]["address"] == "testclient"
    assert admin.get("/api/v1/audit/verify").json()["holds"]
    lines = [json.loads(line) for line in admin.get("/api/v1/audit/export").text.splitlines()]
    assert lines[-1]["chain"] == admin.get("/api/v1/audit/verify").json()["chain"]


def test_an_altered_audit_row_is_named(room):
    room.people.add_user(kit.OPERATOR, "ada", "admin")
    room.people.add_user(kit.OPERATOR, "bob", "admin")
    with room.store.write() as session:
        from server.store.runs import Audit

        session.get_one(Audit, 1).subject = "eve"
    said = room.client().get("/api/v1/audit/verify").json()
    assert not said["holds"]
    assert "audit row 1" in said["problem"]


# ---- browsers ----


def test_a_session_is_a_cookie_that_scripts_cannot_read(room):
    browser, said = sign_in(room, "ada")
    cookie = said.headers["set-cookie"].lower()
    assert cookie.startswith("__host-fedfleet=")
    for part in ("httponly", "secure", "samesite=lax", "path=/"):
        assert part in cookie
    assert browser.get("/api/v1/me").json()["csrf"] == said.json()["csrf"] != ""


def test_a_session_over_plain_http_has_a_cookie_that_plain_http_can_send(tmp_path):
    room = kit.open_room(tmp_path, is_secure=False)
    _browser, said = sign_in(room, "ada")
    assert said.headers["set-cookie"].startswith("fedfleet=")
    assert "secure" not in said.headers["set-cookie"].lower()
    assert "strict-transport-security" not in said.headers


@pytest.mark.parametrize("headers", [{}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "guess"}])
def test_a_browsers_change_without_its_csrf_token_is_refused(room, headers):
    browser, said = sign_in(room, "ada", "admin")
    answer = status(browser.post("/api/v1/users", json={"name": "eve"}, headers=headers), 403)
    assert "CSRF token" in answer.json()["detail"]
    good = {"X-CSRF-Token": said.json()["csrf"]}
    status(browser.post("/api/v1/users", json={"name": "eve"}, headers=good), 201)


def test_another_sites_page_changes_nothing_even_with_the_csrf_token(room):
    browser, said = sign_in(room, "ada", "admin")
    headers = {"X-CSRF-Token": said.json()["csrf"], "Origin": "https://evil.example"}
    status(browser.post("/api/v1/users", json={"name": "eve"}, headers=headers), 403)
    headers["Origin"] = "https://fl.example.org"
    status(browser.post("/api/v1/users", json={"name": "eve"}, headers=headers), 201)


def test_another_sites_page_cannot_sign_a_browser_in(room):
    token = room.people
    token.add_user(kit.OPERATOR, "ada")
    secret = token.add_token(kit.OPERATOR, "ada").secret
    status(
        room.client(None).post("/api/v1/session", json={"token": secret}, headers={"Origin": "https://evil.example"}),
        403,
    )


def test_an_expired_session_says_so_and_signing_out_ends_one(room):
    browser, said = sign_in(room, "ada")
    now = room.people.now
    room.people.now = lambda: now() + 13 * 3600
    assert status(browser.get("/api/v1/me"), 401).json()["detail"] == "the session is over"
    room.people.now = now
    stolen = browser.cookies["__Host-fedfleet"]
    status(browser.delete("/api/v1/session", headers={"X-CSRF-Token": said.json()["csrf"]}), 204)
    with room.store.read() as session:
        assert session.query(WebSession).count() == 0
    again = room.client(None)
    again.cookies.set("__Host-fedfleet", stolen, domain="fl.example.org")
    status(again.get("/api/v1/me"), 401)


def test_the_local_operators_token_opens_no_session(room):
    status(room.client(None).post("/api/v1/session", json={"token": kit.LOCAL_TOKEN}), 401)


def test_everybody_may_look_and_nobody_change_when_that_is_wanted(tmp_path):
    room = kit.open_room(tmp_path, access={"anonymous_view": True})
    kit.fill(room.store, tmp_path)
    nobody = room.client(None)
    assert len(status(nobody.get("/api/v1/runs"), 200).json()["items"]) == 2
    status(nobody.post("/api/v1/runs/1/stop"), 401)
    status(nobody.get("/api/v1/audit"), 401)
    status(nobody.post("/api/v1/users/anonymous/tokens", json={}), 401)


def test_every_answer_has_headers_that_forbid_scripts_from_elsewhere(room):
    for path in ("/api/v1/runs", "/api/v1/nothing", "/metrics"):
        headers = room.client().get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "strict-transport-security" in headers


# ---- how often ----


def test_guessing_tokens_is_refused_after_a_few_and_a_good_one_waits_too(room):
    client = room.client(None)
    for _ in range(10):
        status(client.get("/api/v1/me", headers={"Authorization": "Bearer fl_guess"}), 401)
    answer = status(client.get("/api/v1/me", headers={"Authorization": "Bearer fl_guess"}), 429)
    assert 1 <= int(answer.headers["retry-after"]) <= 6
    status(client.post("/api/v1/session", json={"token": "fl_guess"}), 429)


def test_changes_are_limited_and_looking_is_not(tmp_path):
    room = kit.open_room(tmp_path, access={"writes_per_minute": 3})
    client = room.user("ada")
    for _ in range(3):
        status(client.post("/api/v1/users/ada/tokens", json={}), 201)
    status(client.post("/api/v1/users/ada/tokens", json={}), 429)
    status(client.get("/api/v1/me"), 200)


def test_a_limit_fills_again_over_time_and_forgets_those_who_asked_longest_ago():
    now = [0.0]
    limit = Limit(60, now=lambda: now[0])
    for _ in range(60):
        limit.check("a", what="asking")
    with pytest.raises(TooOftenError, match="asking too often") as refused:
        limit.check("a", what="asking")
    assert refused.value.again_after_s == pytest.approx(1)
    now[0] += 2.0
    limit.check("a", what="asking")
    limit.check("a", what="asking")
    with pytest.raises(TooOftenError):
        limit.check("a", what="asking")
    for number in range(20_000):
        limit.count(f"b{number}")
    assert len(limit._buckets) == 10_000


@pytest.mark.parametrize("body", [b"x" * (2 * 1024 * 1024 + 1), [b"x" * 1024 * 1024] * 3])
def test_a_request_that_is_too_long_is_refused_unread(room, body):
    answer = room.client().post("/api/v1/runs", content=iter(body) if isinstance(body, list) else body)
    assert status(answer, 413).json()["detail"] == "the request is longer than 2 MiB"


def test_a_name_taken_by_the_provider_does_not_become_somebody_elses(room):
    room.people.add_user(kit.OPERATOR, "ada", "admin")
    found = room.people.sign_in_from_provider(kit.OPERATOR, "https://idp 1", "ada", "viewer", ["*"])
    assert (found.name, found.role) == ("ada-2", "viewer")
    again = room.people.sign_in_from_provider(kit.OPERATOR, "https://idp 1", "ada", "operator", ["*"])
    assert (again.name, again.role) == ("ada-2", "operator")
    local = room.people.sign_in_from_provider(kit.OPERATOR, "https://idp 2", "local", "viewer", ["*"])
    assert local.name != "local"


def test_a_token_is_noted_as_used_once_a_minute(room):
    client = room.user("ada")
    client.get("/api/v1/me")
    with room.store.read() as session:
        used_s = session.query(AccessToken).one().used_s
    assert used_s is not None
    client.get("/api/v1/me")
    with room.store.read() as session:
        assert session.query(AccessToken).one().used_s == used_s
