"""Facts and operations by recorded cases."""

import importlib
import inspect
import pkgutil
import subprocess

import pytest
from pyinfra.api.exceptions import OperationError
from pyinfra.api.facts import FactBase

from edge.fleet import facts, operations
from edge.fleet.facts.survey import Survey
from edge.fleet.facts.system import CgroupVersion, MainMemory, TextOf
from edge.fleet.operations.command import FactError
from tests.edge.fleet import case_tools


def modules(package):
    for info in pkgutil.iter_modules(package.__path__):
        yield info.name, importlib.import_module(f"{package.__name__}.{info.name}")


FACTS = [
    f"{name}.{cls.__name__}"
    for name, module in modules(facts)
    for cls in vars(module).values()
    if inspect.isclass(cls) and issubclass(cls, FactBase) and cls.__module__ == module.__name__
]
OPERATIONS = [
    f"{name}.{key}"
    for name, module in modules(operations)
    for key, value in vars(module).items()
    if hasattr(value, "_inner") and value._inner.__module__ == module.__name__
]


@pytest.mark.parametrize(("name", "case"), case_tools.cases("facts"))
def test_a_fact_is_read_from_a_recorded_answer(name, case):
    recorded = case_tools.read("facts", name, case)
    fact = case_tools.fact_class(name)()
    assert fact.command(**recorded["arguments"]) == recorded["command"]
    assert case_tools.plain(fact.process(recorded["output"])) == recorded["fact"]


@pytest.mark.parametrize(("name", "case"), case_tools.cases("operations"))
def test_an_operation_runs_the_recorded_commands(name, case):
    recorded = case_tools.read("operations", name, case)
    assert case_tools.run_case(name, recorded) == recorded["commands"]


def test_every_fact_and_every_operation_has_cases():
    assert {name for name, _ in case_tools.cases("facts")} == set(FACTS)
    assert {name for name, _ in case_tools.cases("operations")} == set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_a_case_in_which_it_changes_something_and_one_in_which_nothing(name):
    counts = [
        len(case_tools.read("operations", found, case)["commands"])
        for found, case in case_tools.cases("operations")
        if found == name
    ]
    assert min(counts) == 0
    assert max(counts) > 0


@pytest.mark.parametrize(("name", "case"), case_tools.cases("operations"))
def test_every_command_ends_within_its_time_here_and_at_the_host(name, case):
    for command in case_tools.read("operations", name, case)["commands"]:
        if "run" in command:
            assert command["run"].startswith("timeout -k 10 ")
            assert command["timeout_s"] == int(command["run"].split()[3]) + 30


@pytest.mark.parametrize(("name", "case"), case_tools.cases("operations"))
def test_no_token_stands_in_a_command(name, case):
    for command in case_tools.read("operations", name, case)["commands"]:
        assert "fl1." not in command.get("run", "")


@pytest.mark.parametrize(
    ("name", "arguments", "facts", "words"),
    [
        ("k3s.installed", {"version": "v1.34.1+k3s1", "role": "server", "binary": "a", "script": "b"},
         {"K3sState()": ["k3s version v1.30.0+k3s1 (x)", "k3s active"], "InstalledParts()": []}, "distro: existing"),
        ("microk8s.installed", {"channel": "1.34/stable"},
         {"SnapState(snap=microk8s)": ["Name Version Rev Tracking Publisher Notes",
                                         "microk8s v1.30 1 1.30/stable x classic"],
          "InstalledParts()": []}, "distro: existing"),
    ],
)  # fmt: skip
def test_a_cluster_of_somebody_else_is_left_alone(name, arguments, facts, words):
    with pytest.raises(FactError, match=words):
        case_tools.run_case(name, {"arguments": arguments, "facts": facts})


def test_a_revision_that_is_gone_cannot_be_rolled_back_to():
    recorded = case_tools.read("operations", "helm.rolled_back", "deployed")
    recorded["arguments"]["revision"] = 77
    with pytest.raises(OperationError, match="no revision 77"):
        case_tools.run_case("helm.rolled_back", recorded)


def test_a_survey_is_all_answers_of_one_command():
    survey = Survey([(MainMemory, {}), (CgroupVersion, {})])
    done = subprocess.run(["sh", "-c", survey.command], capture_output=True, text=True, check=True)
    answers = survey.read(done.stdout.splitlines())
    assert answers["MainMemory()"].total_mib > 0
    assert answers["CgroupVersion()"] in (1, 2, None)


def test_an_answer_that_does_not_end_its_line_hides_no_other(tmp_path):
    (tmp_path / "file").write_text("no newline")
    survey = Survey([(TextOf, {"path": str(tmp_path / "file")}), (TextOf, {"path": "/nowhere"}), (CgroupVersion, {})])
    done = subprocess.run(["sh", "-c", survey.command], capture_output=True, text=True, check=True)
    answers = survey.read(done.stdout.splitlines())
    assert answers[f"TextOf(path={tmp_path}/file)"] == "no newline\n"
    assert answers["TextOf(path=/nowhere)"] == ""
    assert len(answers) == 3


def test_a_survey_that_was_cut_off_is_no_answer():
    survey = Survey([(MainMemory, {}), (CgroupVersion, {})])
    mark = survey.command.split("'")[3]
    with pytest.raises(ValueError, match="1 of 2"):
        survey.read([mark, "MemTotal: 1 kB"])
