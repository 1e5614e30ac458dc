"""The module of a task of one's own: kept with a run's journal, so that the run can be taken up from anywhere."""

from __future__ import annotations

from pathlib import Path

from fl.errors import ConfigError


def module_files(name: str, directory: Path | None) -> dict[str, bytes]:
    """The files of a task of one's own: the module, or the package, that its import path begins with.

    Raises:
        ConfigError: If there is no such module in the directory.
    """
    package = name.partition(":")[0].partition(".")[0]
    if directory is None:
        return {}
    if (directory / f"{package}.py").is_file():
        return {f"{package}.py": (directory / f"{package}.py").read_bytes()}
    files = {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted((directory / package).rglob("*.py"))
    }
    if not files:
        raise ConfigError(f"task.name is {name!r}, but there is no {package}.py in {directory}")
    return files


def keep(files: dict[str, bytes], directory: Path) -> None:
    """Write the files to a directory, made if need be."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
