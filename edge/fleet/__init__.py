"""The fleet: from bare hosts to training sites, with pyinfra.

``facts``, ``operations`` and ``deploys`` are plain pyinfra, usable with nothing but ``pyinfra inventory.py deploy.py``.
Around them stands ``fl fleet``: the fleet file (``config``), what it asks of each site (``wanted``), the rollout in
waves (``rollout``), and the process that holds the connections (``worker``). Only that process imports pyinfra.
"""
