"""Make what follows from a chart's ``values.schema.yaml``: ``python helm/make.py [--check]``.

Of that one source: ``values.yaml`` (the defaults, each with its description), ``values.schema.json`` (which Helm
checks) and the page in ``docs/reference``. The templates that both charts share are copied from ``helm/common``,
the monitoring files from ``server/monitoring``.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import yaml

HELM = Path(__file__).resolve().parent
ROOT = HELM.parent
CHARTS = ("fl-server", "fl-site")
MADE = "made by helm/make.py of values.schema.yaml"
WIDTH = 118


def schema(chart: str) -> dict[str, Any]:
    """A chart's schema as JSON Schema has it: shared parts put in, unknown keys refused everywhere."""
    source = yaml.safe_load((HELM / chart / "values.schema.yaml").read_text(encoding="utf-8"))
    common = yaml.safe_load((HELM / "common" / "values.yaml").read_text(encoding="utf-8"))
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": chart, "type": "object"}
    return head | _closed(source, common)


def defaults(node: dict[str, Any]) -> Any:
    """The default of a value and of all in it.

    Raises:
        KeyError: If a value has none.
    """
    if "default" in node:
        return copy.deepcopy(node["default"])
    return {key: defaults(child) for key, child in node["properties"].items()}


def made(chart: str) -> dict[Path, str]:
    """Every file that is made for a chart, and its content."""
    tree = schema(chart)
    folder = HELM / chart
    files = {
        folder / "values.yaml": values_yaml(chart, tree),
        folder / "values.schema.json": json.dumps(tree, indent=1, ensure_ascii=False) + "\n",
        ROOT / "docs" / "reference" / f"chart-{chart}.md": page(chart, tree),
    }
    for shared in sorted((HELM / "common").glob("*.tpl")):
        files[folder / "templates" / shared.name] = shared.read_text(encoding="utf-8")
    if chart == "fl-server":
        for path in sorted((ROOT / "server" / "monitoring").glob("*.*")):
            if path.suffix in (".json", ".yaml") and not path.stem.endswith("_test"):
                files[folder / "monitoring" / path.name] = path.read_text(encoding="utf-8")
    return files


def values_yaml(chart: str, tree: dict[str, Any]) -> str:
    """The defaults, each below its description."""
    return f"# Defaults of the chart {chart}; {MADE}.\n" + "\n".join(_lines(tree, 0)) + "\n"


def page(chart: str, tree: dict[str, Any]) -> str:
    """The reference page."""
    out = [
        f"# Values of the chart `{chart}`",
        "",
        f"<!-- {MADE} -->",
        "",
        "Unknown keys are refused. `helm show values` prints the same, as a file to start from.",
        "",
        "| key | type | default | what |",
        "|---|---|---|---|",
        *_rows(tree, ""),
    ]
    return "\n".join(out) + "\n"


def _closed(node: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    node = dict(node)
    given = node.pop("defaults", {})
    if name := node.pop("common", None):
        node = copy.deepcopy(common[name]) | node
    if "properties" in node:
        node.setdefault("type", "object")
        node.setdefault("additionalProperties", False)
        children = {}
        for key, child in node["properties"].items():
            child = _closed(child, common)
            if key in given:
                child["default"] = given[key]
            children[key] = child
        node["properties"] = children
    if isinstance(node.get("items"), dict):
        node["items"] = _closed(node["items"], common)
    return node


def _lines(node: dict[str, Any], depth: int) -> list[str]:
    import textwrap

    out: list[str] = []
    pad = "  " * depth
    for key, child in node["properties"].items():
        if depth == 0:
            out.append("")
        out += textwrap.wrap(child["description"], WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")
        if "default" in child:
            out.append(f"{pad}{key}: {json.dumps(child['default'], ensure_ascii=False)}")
        else:
            out.append(f"{pad}{key}:")
            out += _lines(child, depth + 1)
    return out


def _rows(node: dict[str, Any], prefix: str) -> list[str]:
    rows = []
    for key, child in node["properties"].items():
        name = f"{prefix}{key}"
        shown = "" if "default" not in child else f"`{json.dumps(child['default'], ensure_ascii=False)}`"
        words = child["description"].replace("|", "\\|")
        rows.append(f"| `{name}` | {_type(child)} | {shown} | {words} |")
        if "properties" in child:
            rows += _rows(child, f"{name}.")
        elif isinstance(child.get("items"), dict) and "properties" in child["items"]:
            rows += _rows(child["items"], f"{name}[].")
    return rows


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    kinds = ["unset" if kind == "null" else kind for kind in kinds]
    words = " or ".join(kinds)
    if node["type"] == "array":
        words = f"list of {_type(node['items'])}s"
    bounds = [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤")]
    return words + "".join(f", {sign} {node[key]}" for key, sign in bounds if key in node)


def main() -> int:
    """Write all files, or say which are not as they would be written."""
    parser = argparse.ArgumentParser(description="Make what follows from the charts' schemas.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file would change")
    given = parser.parse_args()
    stale = 0
    for chart in CHARTS:
        for path, content in made(chart).items():
            if path.exists() and path.read_text(encoding="utf-8") == content:
                continue
            stale += 1
            print(f"{'stale' if given.check else 'wrote'} {path.relative_to(ROOT)}")  # noqa: T201
            if not given.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
