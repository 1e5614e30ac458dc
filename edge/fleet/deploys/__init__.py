"""What is done to a site, as pyinfra deploys: ``site``, ``removal``, ``collection``.

Each reads ``host.data.fedfleet``, which the generated inventory has (see ``edge.fleet.wanted``).
"""
