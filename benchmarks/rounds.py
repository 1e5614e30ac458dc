"""The numbers of rounds: memory of the server, speed of the fold, cost of the journal, length of the demo.

python -m benchmarks.rounds [--quick] [--json] [NAME …]
"""

from __future__ import annotations

from benchmarks._demo import demo_seconds
from benchmarks._fold import fold_bandwidth_share, fold_memory_models
from benchmarks._journal import journal_overhead
from benchmarks._server_memory import server_memory_models
from benchmarks._table import main

if __name__ == "__main__":
    main(str(__doc__), [fold_bandwidth_share, fold_memory_models, journal_overhead, server_memory_models, demo_seconds])
