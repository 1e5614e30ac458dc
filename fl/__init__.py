"""The library of fedfleet: imported by the server, by the sites and by users' apps.

``fl.tasks`` says what is learned, ``fl.strategies`` how updates become the next model, ``fl.rounds`` runs the
rounds and keeps the journal, ``fl.flower`` is the border with Flower. ARCHITECTURE.md follows one round through them.
"""

__version__ = "0.1.0"
