"""Shared by all tests."""

from hypothesis import settings

# A loaded machine is slow, not wrong; a failing example prints how to run it again.
settings.register_profile("fedfleet", deadline=None, max_examples=40, print_blob=True)
settings.load_profile("fedfleet")
