"""Adds the dashboard to the API's application."""

from __future__ import annotations

from fastapi import FastAPI

from server.web import fleet, models, page, people, run, runs


def install(app: FastAPI) -> None:
    """Add pages and files to an application of ``server.api.create_app``."""
    for part in (fleet, runs, run, models, people):
        app.include_router(part.router, include_in_schema=False)
    app.add_api_route("/static/{name}", page.serve, include_in_schema=False)
    app.state.error_page = page.error_page
