"""Secure aggregation ``fl-secagg/v1``: the server learns the sum of the updates and nothing else, even if it lies."""
