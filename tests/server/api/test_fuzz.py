"""The API is tried with what its own description allows, and with what it forbids."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.api import kit

pytestmark = pytest.mark.slow

CASES = 25
"""Requests an operation: allowed ones, and ones that break the description."""


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    generous = {"writes_per_minute": 1e9, "sign_ins_per_minute": 1e9}
    room = kit.open_room(folder, access=generous)
    kit.fill(room.store, folder)
    return room


def paths(api):
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", api.app, headers=None)


@pytest.fixture(scope="module")
def schema(api):
    return paths(api).exclude(path="/api/v1/events")  # it has no end; tests of its own


lazy = schemathesis.pytest.from_fixture("schema")


@lazy.parametrize()
@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_makes_a_bug_show_and_every_answer_is_as_described(case):
    case.call_and_validate(
        headers={"Authorization": f"Bearer {kit.LOCAL_TOKEN}"},
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
