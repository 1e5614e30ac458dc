import pytest

from tests.server.api import kit


@pytest.fixture
def room(tmp_path):
    """A control room with two sites, two runs and a model."""
    made = kit.open_room(tmp_path)
    kit.fill(made.store, tmp_path)
    yield made
    made.store.close()
