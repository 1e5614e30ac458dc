"""The numbers of the control room: pages, metrics, ingest, live views.

python -m benchmarks.control [--quick] [--json] [NAME …]
"""

from __future__ import annotations

from benchmarks._control_api import ingest_events_s, metrics_ms, viewers_cpu
from benchmarks._control_pages import fleet_page_ms, run_page_ms
from benchmarks._table import main

if __name__ == "__main__":
    main(str(__doc__), [fleet_page_ms, run_page_ms, ingest_events_s, viewers_cpu, metrics_ms])
