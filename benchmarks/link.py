"""The numbers of the link: what the way through the gateway costs, and what waiting does.

python -m benchmarks.link [--quick] [--json] [NAME …]
"""

from __future__ import annotations

from benchmarks._gateway import gateway_ratio, idle_1000_sites
from benchmarks._join import join_seconds
from benchmarks._phases import phase_seconds
from benchmarks._runner import idle_site_mib, round_ratio, task_seconds
from benchmarks._table import main

if __name__ == "__main__":
    main(
        str(__doc__),
        [phase_seconds, gateway_ratio, idle_1000_sites, round_ratio, task_seconds, idle_site_mib, join_seconds],
    )
