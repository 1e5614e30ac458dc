"""A Flower app as anybody would write it: it knows nothing of fedfleet."""
