"""The central side: SuperLink and its executor, the client of its Control API, runs, the local federation."""
