"""Secure aggregation for any Flower app, with one changed line at each end.

At the sites, where the train function stays as it is::

    app = ClientApp(mods=[secagg_mod])

At the server, in front of a strategy that needs no more than the mean of the sites' models (FedAvg, FedAdam, …)::

    grid = SecureGrid(grid, Credentials.from_directory(Path(context.run_config["secagg"])))

Such a strategy then gets one reply that stands for all sites: the mean of their models, the number of all their
examples, and the means of their metrics. What one site trained, on how much, and how well, stays hidden as in a run
file with ``[secagg]``; ``SecAggSection`` has the settings. The train function answers as Flower's own strategies
expect: one ArrayRecord with the names that came, and a MetricRecord with ``num-examples``.
"""

from fl.flower.secagg.grid import SecAggWorkflow, SecureGrid
from fl.flower.secagg.mod import secagg_mod
from fl.rounds.config import SecAggSection
from fl.rounds.secure import Credentials

__all__ = ["Credentials", "SecAggSection", "SecAggWorkflow", "SecureGrid", "secagg_mod"]
