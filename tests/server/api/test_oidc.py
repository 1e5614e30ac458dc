"""Sign-in at an identity provider that really runs, that is honest, and that is not."""

import dataclasses
import urllib.parse

import pytest

from fl.errors import ConfigError
from server.api import create_app, oidc
from server.api.config import OidcConfig
from server.api.oidc import local_path, role_of
from server.home import Home
from server.live import Live
from tests.server.api import kit, provider

START = "/api/v1/oidc/start"
ROLES = {"fl-operators": "operator", "fl-admins": "admin", "fl-viewers": "viewer"}


@pytest.fixture
def idp():
    with provider.serving() as running:
        yield running


def a_room(folder, idp, **changes):
    folder.joinpath("secret").write_text(provider.SECRET)
    folder.joinpath("secret").chmod(0o600)
    told = {"issuer": idp.issuer, "client_id": provider.CLIENT, "secret_file": folder / "secret", "roles": ROLES}
    return kit.open_room(folder, oidc_config=OidcConfig(**{**told, **changes}), public_url="https://fl.example.org/")


@pytest.fixture
def room(tmp_path, idp):
    return a_room(tmp_path, idp)


def come_back(idp, browser, to="/runs"):
    """What a browser does: it is sent to the provider, and from there back to us."""
    sent = browser.get(START, params={"to": to}, follow_redirects=False)
    assert sent.status_code == 303, sent.text
    target = urllib.parse.urlsplit(sent.headers["location"])
    assert sent.headers["location"].startswith(idp.issuer + "/authorize?")
    return idp.authorise(dict(urllib.parse.parse_qsl(target.query)))


def sign_in(room, idp, **options):
    browser = room.client(None)
    return browser, browser.get(come_back(idp, browser, **options), follow_redirects=False)


def test_somebody_signs_in_and_is_what_their_groups_say(room, idp):
    browser, answer = sign_in(room, idp)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    me = browser.get("/api/v1/me").json()
    assert (me["name"], me["role"], me["projects"]) == ("ada", "operator", ["*"])
    assert me["csrf"]
    row = room.client().get("/api/v1/users").json()[0]
    assert row["has_provider"]


def test_groups_that_changed_hold_at_the_next_sign_in_and_stand_in_the_audit(room, idp):
    sign_in(room, idp)
    idp.claims["groups"] = ["fl-viewers"]
    browser, _ = sign_in(room, idp)
    assert browser.get("/api/v1/me").json()["role"] == "viewer"
    actions = [row["action"] for row in room.client().get("/api/v1/audit").json()["items"]]
    assert actions[:2] == ["session.open", "user.role"]


def test_projects_come_from_groups(tmp_path, idp):
    room = a_room(tmp_path, idp, projects={"fl-operators": ["xray"], "others": ["mri"]})
    browser, _ = sign_in(room, idp)
    assert browser.get("/api/v1/me").json()["projects"] == ["xray"]


def test_groups_are_taken_from_userinfo_where_the_token_has_none_unless_it_is_somebody_elses(room, idp):
    del idp.claims["groups"]
    idp.userinfo = {"sub": "u-1", "groups": ["fl-admins"]}
    browser, _ = sign_in(room, idp)
    assert browser.get("/api/v1/me").json()["role"] == "admin"
    idp.userinfo = {"sub": "u-2", "groups": ["fl-admins"]}
    _, answer = sign_in(room, idp)
    assert answer.status_code == 401
    assert "has no role here; groups: none" in answer.json()["detail"]


def test_a_new_key_of_the_provider_is_fetched_but_not_at_once_again(room, idp, monkeypatch):
    sign_in(room, idp)
    idp.rotate()
    monkeypatch.setattr(oidc, "AGAIN_S", 60.0)
    _, answer = sign_in(room, idp)
    assert answer.status_code == 401
    monkeypatch.setattr(oidc, "AGAIN_S", 0.0)
    _, answer = sign_in(room, idp)
    assert answer.status_code == 303, answer.text


@pytest.mark.parametrize(
    "lie",
    [
        {"nonce": "of another sign-in"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": ["another-client", provider.CLIENT], "azp": "another-client"},
        {"iss": "https://other.example"},
        {"exp": 1},
        {"exp": None},
        {"sub": None},
    ],
)
def test_a_token_that_is_not_for_this_very_sign_in_is_refused(room, idp, lie):
    idp.lies = lie
    browser, answer = sign_in(room, idp)
    assert answer.status_code == 401, answer.text
    assert "identity provider's token" in answer.json()["detail"]
    assert browser.get("/api/v1/me").status_code == 401


def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(room, idp):
    idp.forge_with_public_key()
    _, answer = sign_in(room, idp)
    assert answer.status_code == 401


def test_a_token_signed_by_somebody_else_is_refused(room, idp):
    from joserfc.jwk import RSAKey

    idp.signs_with = RSAKey.generate_key(2048, {"kid": "first"})
    _, answer = sign_in(room, idp)
    assert answer.status_code == 401


def test_a_code_that_another_browser_was_given_is_refused(room, idp):
    victim, thief = room.client(None), room.client(None)
    link = come_back(idp, thief)
    answer = victim.get(link, follow_redirects=False)
    assert (answer.status_code, answer.json()["detail"]) == (401, "this sign-in was not begun here, or took too long")


def test_a_sign_in_that_is_begun_at_one_process_ends_at_another(room, idp, tmp_path):
    browser = room.client(None)
    link = come_back(idp, browser)
    secret = OidcConfig(issuer=idp.issuer, client_id=provider.CLIENT, secret_file=tmp_path / "secret", roles=ROLES)
    other = create_app(home=Home(tmp_path / "home"), store=room.store, actions=room.people, live=Live(),
                       oidc_config=secret, public_url="https://fl.example.org/")  # fmt: skip
    there = dataclasses.replace(room, app=other).client(None)
    there.cookies.update(browser.cookies)
    assert there.get(link, follow_redirects=False).status_code == 303
    assert there.get("/api/v1/me").json()["name"] == "ada"

    # The session stands in the store: it holds at the first one, too.
    browser.cookies.update(there.cookies)
    assert browser.get("/api/v1/me").json()["name"] == "ada"


@pytest.mark.parametrize("change", [{"state": "x"}, {"verifier": "x" * 43}, {"nonce": "x"}, {"until_s": 1.0}, None])
def test_a_cookie_that_was_changed_ends_its_own_sign_in(room, idp, change):
    browser = room.client(None)
    link = come_back(idp, browser)
    name = "__Host-fedfleet-oidc"
    begun = oidc.Pending.of(browser.cookies[name])
    browser.cookies.set(
        name, str(dataclasses.replace(begun, **change)) if change else "bm9uc2Vuc2U", domain="fl.example.org"
    )
    answer = browser.get(link, follow_redirects=False)
    assert answer.status_code == 401, answer.text
    assert room.client().get("/api/v1/users").json() == []


def test_a_cookie_leads_nowhere_else(room, idp):
    browser = room.client(None)
    link = come_back(idp, browser)
    name = "__Host-fedfleet-oidc"
    begun = dataclasses.replace(oidc.Pending.of(browser.cookies[name]), to="https://evil.example/")
    browser.cookies.set(name, str(begun), domain="fl.example.org")
    assert browser.get(link, follow_redirects=False).headers["location"] == "/"


def test_a_callback_works_once(room, idp):
    browser = room.client(None)
    link = come_back(idp, browser)
    assert browser.get(link, follow_redirects=False).status_code == 303
    assert browser.get(link, follow_redirects=False).status_code == 401


def test_who_has_no_role_here_is_told_so_and_no_user_is_made(room, idp):
    idp.claims["groups"] = ["cooks"]
    _, answer = sign_in(room, idp)
    assert "ada has no role here; groups: cooks" in answer.json()["detail"]
    assert room.client().get("/api/v1/users").json() == []


def test_who_is_disabled_here_does_not_get_in(room, idp):
    sign_in(room, idp)
    room.people.add_user(kit.OPERATOR, "bob", "admin")
    room.people.disable_user(kit.OPERATOR, "ada")
    _, answer = sign_in(room, idp)
    assert answer.status_code == 422
    assert "ada is disabled here" in answer.json()["detail"]


def test_a_provider_that_does_not_answer_is_said_so_and_tokens_go_on_working(tmp_path, idp):
    room = a_room(tmp_path, idp, issuer="http://127.0.0.1:9")
    answer = room.client(None).get(START, follow_redirects=False)
    assert answer.status_code == 503
    assert "cannot be reached" in answer.json()["detail"]
    assert room.client().get("/api/v1/me").status_code == 200


def test_another_issuer_at_the_same_address_is_refused(tmp_path, idp):
    room = a_room(tmp_path, idp, issuer=idp.issuer + "/")
    answer = room.client(None).get(START, follow_redirects=False)
    assert "is of the issuer" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("/runs?state=active", "/runs?state=active"),
        ("https://evil.example/", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("runs", "/"),
        ("", "/"),
    ],
)
def test_after_signing_in_one_stays_here(to, expected):
    assert local_path(to) == expected


@pytest.mark.parametrize(
    ("groups", "default", "expected"),
    [
        (["fl-viewers", "fl-admins"], "", "admin"),
        (["cooks"], "", ""),
        (["cooks"], "viewer", "viewer"),
        (["fl-viewers"], "operator", "viewer"),
    ],
)
def test_the_highest_role_of_all_groups_counts(groups, default, expected):
    config = OidcConfig(issuer="https://idp", client_id="x", roles=ROLES, default_role=default)
    assert role_of(config, groups) == expected


def test_a_configuration_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must begin with https"):
        OidcConfig(issuer="http://idp.example.org", client_id="x")
    with pytest.raises(ConfigError, match="unknown role admn"):
        OidcConfig(issuer="https://idp", client_id="x", roles={"a": "admn"})
    file = tmp_path / "secret"
    file.write_text("s")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        OidcConfig(issuer="https://idp", client_id="x", secret_file=file).secret()
