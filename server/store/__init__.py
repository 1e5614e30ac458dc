"""What the centre remembers, in one database: sites, their keys and certificates, join tokens, counters, events.

``models`` has the tables, ``database`` opens the file and brings it up to date, ``migrations/`` has one step a change.
"""

from server.store.database import Store

__all__ = ["Store"]
