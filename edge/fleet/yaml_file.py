"""A YAML file as data: plain YAML only, each key once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fl.errors import ConfigError


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's safe subset, without a key that silently wins over its namesake."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> dict[str, Any]:
    """The tables of a YAML file.

    Raises:
        ConfigError: If the file is missing, unreadable or not YAML (with line and column), or no table.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError as err:
        raise ConfigError(f"no such file: {path}") from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read {path}: {err}") from err
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path} is not YAML: {err.problem}{where}") from err
    except yaml.YAMLError as err:
        raise ConfigError(f"{path} is not YAML: {err}") from err
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds no table of keys")
    return {str(key): item for key, item in value.items()}
