"""The API is tried with what its own description allows, and with what it forbids."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.api import kit

pytestmark = pytest.mark.slow

CASES = 25
"""Requests an operation and mode."""


def no_bug(context, answer, case):
    """503 says that something is not there now; 500 is a bug."""
    assert answer.status_code != 500, answer.text


CHECKS = [no_bug, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = "/api/v1/events"
"""It has no end, and tests of its own."""

KNOWN = {
    "runs": {"name": "20261126-digits"},
    "sites": {"id": "north"},
    "models": {"reference": "production"},
    "aliases": {"name": "production"},
    "users": {"name": "ada"},
}
"""What is there, by the part of the path that it stands behind."""

SIGNED_IN = {"Authorization": f"Bearer {kit.LOCAL_TOKEN}"}


@pytest.fixture(scope="module")
def operations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    room = kit.open_room(folder, access={"writes_per_minute": 1e9, "sign_ins_per_minute": 1e9})
    kit.fill(room.store, folder)
    room.people.add_user(kit.OPERATOR, "ada")
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", room.app, headers=SIGNED_IN)
    found = [result.ok() for result in schema.get_all_operations()]
    return [operation for operation in found if operation.path != ENDLESS]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"])
@pytest.mark.timeout(500)
def test_no_request_makes_a_bug_show_and_every_answer_is_as_described(operations, mode):
    assert len(operations) > 35
    problems = []
    for operation in operations:
        if mode == GenerationMode.NEGATIVE and not _has_input(operation):
            continue

        @given(case=operation.as_strategy(generation_mode=mode), is_known=strategies.booleans())
        @settings(
            max_examples=CASES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def every(case, is_known):
            if is_known:  # else nearly all would be of things that are not there
                case.path_parameters = {**case.path_parameters, **KNOWN.get(case.operation.path.split("/")[3], {})}
            case.call_and_validate(headers=SIGNED_IN, checks=CHECKS)

        try:
            every()
        except BaseExceptionGroup as err:
            problems.append(f"{operation.label}: {err.exceptions[0]}")
        except Exception as err:
            problems.append(f"{operation.label}: {type(err).__name__}: {err}")
    assert not problems, "\n\n".join(problems)


def _has_input(operation):
    return any((*operation.path_parameters, *operation.query, *operation.headers, *operation.body))
