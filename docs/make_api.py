"""Writes the table of the API's routes in ``docs/reference/api.md`` from its own OpenAPI document.

``python docs/make_api.py`` brings the page up to date; a test fails when it is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from server.api.app import PREFIX, create_app

PAGE = Path(__file__).parent / "reference" / "api.md"
BEGIN, END = "<!-- begin routes -->\n", "<!-- end routes -->"


def made() -> str:
    """The page as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{_routes()}\n\n{END}{after}"


def _routes() -> str:
    # The document needs none of what a control room works with.
    nothing: Any = None
    document = create_app(home=nothing, store=nothing, actions=nothing, live=nothing).openapi()
    rows = ["| | what | with |", "| --- | --- | --- |"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            words = operation["description"].split("\n\n")[0].replace("\n", " ")
            asked = [item["name"] for item in operation.get("parameters", ()) if item["in"] == "query"]
            asked += _body(document, operation)
            shown = ", ".join(f"`{name}`" for name in asked)
            rows.append(f"| `{method.upper()} {path.removeprefix(PREFIX)}` | {words} | {shown} |")
    return "\n".join(rows)


def _body(document: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return list(document["components"]["schemas"][name]["properties"]) if name else []


if __name__ == "__main__":
    PAGE.write_text(made(), encoding="utf-8")
