"""Carriers of the round engine's messages inside one process."""
