"""The fleet's deploys with plain pyinfra: pyinfra inventory.py deploy.py (see fl fleet inventory)."""

from edge.fleet.deploys.site import release, stage

stage()
release()
