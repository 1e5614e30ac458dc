"""The project's ServerApp, with its peak memory over its idle."""

import json
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl.flower.server_app import main as run

app = ServerApp()
client = ClientApp()


def resident_bytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


@app.main()
def main(grid: Grid, context: Context) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    idle = resident_bytes("VmRSS")
    run(grid, context)
    peak = resident_bytes("VmHWM")
    Path(str(context.run_config["out"])).write_text(json.dumps({"idle": idle, "peak": peak}))
