"""Federations inside one process: the same tasks, strategies, engine and journal as deployment."""
