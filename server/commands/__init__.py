"""Commands of the centre: `fl up`, `fl demo`, `fl run`."""
