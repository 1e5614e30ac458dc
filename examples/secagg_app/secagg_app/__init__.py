"""A Flower app that became one with secure aggregation by one line at each end."""
