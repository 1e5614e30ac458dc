"""The control room: one process with the run controller, the API and the dashboard, over one store."""
