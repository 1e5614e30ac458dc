import re
import shlex

from tests.docs.pages import commands, faults
from tests.helm.charts import CASES, HELM, containers, manifests

LINE = re.compile(r"\bfl (?:server|site|run|roster) (?:[^\n\\]|\\\n)*")


def lines():
    """Every line that runs fl, in a container or in NOTES."""
    found = set()
    for chart, case in CASES:
        for _, container in containers(manifests(chart, case)):
            command = container.get("command", [])
            if command and command[0] == "fl":
                found.add(re.sub(r"(--[a-z-]+)=", r"\1 ", shlex.join(command)))
            elif command and command[0] == "sh":
                found |= {match.replace("\\\n", " ") for match in LINE.findall(command[-1])}
    for chart in ("fl-server", "fl-site"):
        notes = re.sub(r"{{.*?}}", "x", (HELM / chart / "templates" / "NOTES.txt").read_text())
        found |= {re.split(r" prints|\.$|;", match)[0] for match in LINE.findall(notes)}
    return sorted(found)


def test_there_are_some():
    said = " ".join(lines())
    assert "fl site enrol" in said
    assert "fl server prepare" in said
    assert "fl site add" in said


def test_every_command_of_the_charts_exists():
    known = commands()
    wrong = {line: found for line in lines() if (found := faults(line, known))}
    assert wrong == {}
    assert any(line.startswith("fl server backup") for line in lines())
