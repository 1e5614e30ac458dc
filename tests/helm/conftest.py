"""Without Helm the tests of the charts are skipped, with the reason."""

import pytest

from tests.helm import charts


@pytest.fixture(autouse=True, scope="session")
def _helm():
    try:
        charts.tools.program()
    except charts.tools.NoHelmError as err:
        pytest.skip(str(err))
