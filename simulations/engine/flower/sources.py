"""The modules of an app, read without running them: which are its own, and what deprecated parts of Flower they use."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

DEPRECATED = {
    "flwr.client": "ClientApp of flwr.clientapp, with functions under @app.train() and @app.evaluate()",
    "flwr.server": "ServerApp of flwr.serverapp with a function under @app.main(), and flwr.serverapp.strategy",
    "flwr.simulation": "nothing: the simulator takes its place",
}
"""Packages of Flower's deprecated API, and what to use instead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """A use of the deprecated API.

    Attributes:
        path: The module's file.
        line: Where in it.
        name: What is imported.
        package: Its key in ``DEPRECATED``.
    """

    path: Path
    line: int
    name: str
    package: str


def own_modules(directory: Path, *names: str) -> dict[str, Path]:
    """Modules below a directory that some modules import, themselves included, by name.

    Args:
        directory: The app's.
        names: Modules to begin with; what isn't below the directory is left out.
    """
    found: dict[str, Path] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or (path := _file(directory, name)) is None:
            continue
        found[name] = path
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting += [imported for _, imported in _imports(_parse(path), package)]
    return found


def deprecated_use(path: Path) -> Use | None:
    """The first use of Flower's deprecated API in a module, if there is one."""
    tree = _parse(path)
    uses = sorted([*_imports(tree, ""), *_attributes(tree)])
    for line, name in uses:
        for package in DEPRECATED:
            if name == package or name.startswith(f"{package}."):
                return Use(path, line, name, package)
    return None


def _parse(path: Path) -> ast.Module:
    """The module's tree; an empty one if Python can't read it: its import will say so better."""
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def _file(directory: Path, name: str) -> Path | None:
    stem = directory.joinpath(*name.split("."))
    for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
        if path.is_file():
            return path
    return None


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that is imported anywhere in a module; some may be no modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of ``flwr.…`` as attributes, after ``import flwr`` or ``import flwr as fl``."""
    names = {
        alias.asname or "flwr"
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "flwr"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            yield node.lineno, f"flwr.{node.attr}"
