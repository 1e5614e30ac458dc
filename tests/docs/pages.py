"""The pages of the documentation, and what stands in them."""

import re
import shlex
from pathlib import Path

import click
import typer

from fl.cli import build

ROOT = Path(__file__).parents[2]
ROOT_PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?:\$ )?(fl(?: .*)?)$", re.MULTILINE)
INLINE = re.compile(r"`(fl [^`]+)`")


def pages():
    """Every page, as a path from the root."""
    found = [ROOT / name for name in ROOT_PAGES if (ROOT / name).is_file()]
    found += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def fences(page, language):
    """The fenced blocks of a language."""
    return [text for found, text in FENCE.findall(read(page)) if found == language]


def prose(page):
    """A page without its fenced blocks."""
    return FENCE.sub("", read(page))


def links(page):
    """Relative links of a page, as path and anchor."""
    for target in LINK.findall(prose(page)):
        if "://" not in target and not target.startswith("mailto:"):
            yield target.partition("#")[::2]


def anchors(page):
    """What GitHub makes of a page's headings."""
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def command_lines(page):
    """The lines of a page that run fl."""
    blocks = "\n".join(text for language in ("", "sh", "console") for text in fences(page, language))
    return [*COMMAND.findall(blocks), *INLINE.findall(prose(page))]


def commands():
    """Every command of this install by its words: ``run start``."""
    return dict(_walk(typer.main.get_command(build()), ()))


def _walk(command, words):
    yield " ".join(words), command
    for name, sub in getattr(command, "commands", {}).items():
        yield from _walk(sub, (*words, name))


def faults(line, known):
    """What in a line that runs fl does not exist: its command, or one of its options."""
    words = shlex.split(line.replace("…", ""), comments=True)[1:]
    command, path = known[""], []
    while words and isinstance(command, click.Group) and words[0] in command.commands:
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    if words and isinstance(command, click.Group) and not words[0].startswith("-"):
        return [f"no command {words[0]} in fl {' '.join(path)}"]
    names = {"--help", "-h", "--verbose"}
    for parameter in command.params:
        names |= {*parameter.opts, *parameter.secondary_opts}
    return [f"fl {' '.join(path)} has no {word}" for word in words if word.startswith("-") and word not in names]
