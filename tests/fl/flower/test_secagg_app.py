"""Flower apps with secure aggregation, in this process: ``secagg_mod`` at the sites, ``SecureGrid`` at the server."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg

from fl.errors import ConfigError, RunError
from fl.flower.private import ensure_identity
from fl.flower.secagg import Credentials, SecAggSection, SecureGrid, secagg_mod
from fl.secagg.errors import PolicyError, SecAggError
from fl.secagg.receipt import verify_receipt
from fl.secagg.roster import parse_roster
from fl.secagg.storage import write_private_key
from simulations.secure import secure_federation

NAMES = [f"site-{i}" for i in range(1, 5)]
CLIP = 20.0
BOUND = 1e-5
"""What quantisation may be off by here, and more."""


@pytest.fixture(autouse=True)
def _identity() -> None:
    ensure_identity()


Behaviour = Callable[[str, str], str | None]
"""What goes wrong at a site and a stage: ``silent``, ``crashed``, ``forgets``, or nothing."""


class Sites(Grid):
    """A Grid whose nodes are ClientApps in this process; each keeps its context, as a SuperNode does.

    Attributes:
        replies: The content of every reply that reached the server.
    """

    def __init__(self, app: ClientApp, directory: Path, names: list[str] = NAMES, goes_wrong: Behaviour | None = None):
        directory.mkdir(parents=True)
        self.credentials, secure = secure_federation(directory, names)
        self.app, self.goes_wrong = app, goes_wrong or (lambda site, stage: None)
        self.names = dict(enumerate(names, 1))
        self.contexts = {
            number: Context(
                run_id=1,
                node_id=number,
                node_config={"site": name, "secagg-dir": str(secure[name].directory), "partition-id": number - 1},
                state=RecordDict(),
                run_config={},
            )
            for number, name in self.names.items()
        }
        self.asked: list[tuple[str, str]] = []
        self.replies: list[RecordDict] = []
        self._landed: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node_id = message.metadata.dst_node_id
            site, ask = self.names[node_id], message.content.config_records.get("fedfleet.secagg")
            stage = str(ask["stage"]) if ask else ""
            self.asked.append((site, stage))
            ids.append(str(len(self.asked)))
            wrong = self.goes_wrong(site, stage)
            if wrong == "forgets":
                self.contexts[node_id].state = RecordDict()
            if wrong != "silent":
                # A site gets a copy of its own, so that nothing travels but what is in a message.
                copy = Message(RecordDict(dict(message.content)), node_id, message.metadata.message_type)
                self._landed[ids[-1]] = self._answer(copy, node_id, crashes=wrong == "crashed")
        return ids

    def _answer(self, message: Message, node_id: int, *, crashes: bool) -> Message:
        try:
            if crashes:
                raise RuntimeError("the site crashed")
            reply = self.app(message, self.contexts[node_id])
        except Exception as err:
            from flwr.app import Error

            return Message(Error(code=2, reason=str(err)), reply_to=message)
        self.replies.append(reply.content)
        return reply

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._landed.pop(number) for number in message_ids if number in self._landed]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def get_nodes(self) -> Iterable[Any]:
        return [SimpleNamespace(node_id=number, name=name) for number, name in self.names.items()]

    def get_node_ids(self) -> Iterable[int]:
        return list(self.names)

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=7)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError


def train(message: Message, context: Context) -> Message:
    """A train function as anybody would write it: a step from the model that came towards the site's own numbers."""
    rate, own = float(message.content["config"]["rate"]), 1.0 + int(context.node_config["partition-id"])
    model = message.content["arrays"].to_numpy_ndarrays()
    after = ArrayRecord([array + (rate * (own - array)).astype(array.dtype) for array in model])
    metrics = MetricRecord({"num-examples": 10 * int(own), "loss": float(np.mean((model[0] - own) ** 2))})
    return Message(
        RecordDict({"arrays": after, "metrics": metrics, "note": ConfigRecord({"own": own})}), reply_to=message
    )


def client(function: Callable[[Message, Context], Message] = train, *, secure: bool = True) -> ClientApp:
    app = ClientApp(mods=[secagg_mod] if secure else [])
    app.train()(function)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 1.0})}), reply_to=message)

    return app


SECTION = SecAggSection(clip=CLIP, weight_cap=100, metrics=("loss",))
INITIAL = [np.zeros(3, np.float32), np.full((2, 2), 5.0)]
"""One array of each of two types."""


def start(strategy: Any, grid: Grid, initial: list[np.ndarray] = INITIAL, rounds: int = 2) -> Any:
    return strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(initial),
        num_rounds=rounds,
        train_config=ConfigRecord({"rate": 0.5}),
        timeout=1.0,
    )


def secure_grid(sites: Sites, **options: Any) -> SecureGrid:
    return SecureGrid(sites, sites.credentials, dataclasses.replace(SECTION, stage_deadline_s=0.3), **options)


@pytest.mark.parametrize("strategy", [FedAvg, FedAdam])
def test_a_strategy_of_flowers_ends_where_it_does_in_clear(tmp_path: Path, strategy: Any) -> None:
    clear = Sites(client(secure=False), tmp_path / "clear")
    initial = INITIAL if strategy is FedAvg else INITIAL[:1]  # Flower's FedAdam makes one type of all
    expected = start(strategy(fraction_evaluate=0.0), clear, initial)
    sites = Sites(client(), tmp_path / "secure")
    found = start(strategy(fraction_evaluate=0.0), secure_grid(sites), initial)
    for mine, theirs in zip(found.arrays.to_numpy_ndarrays(), expected.arrays.to_numpy_ndarrays(), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=BOUND, rtol=0)
    for number, metrics in expected.train_metrics_clientapp.items():
        assert found.train_metrics_clientapp[number]["loss"] == pytest.approx(metrics["loss"], abs=1e-4)


def test_the_types_of_the_model_are_kept(tmp_path: Path) -> None:
    def counts(message: Message, context: Context) -> Message:
        model = message.content["arrays"].to_numpy_ndarrays()
        content = {
            "arrays": ArrayRecord([np.asarray(model[0] + 3), model[1] + 0.25, model[2] + 1]),
            "metrics": MetricRecord({"num-examples": 1}),
        }
        return Message(RecordDict(content), reply_to=message)

    initial = [np.array(4, np.int64), np.zeros((2, 1), np.float64), np.zeros(3, np.float16)]
    content = RecordDict({"arrays": ArrayRecord(initial)})
    messages = [Message(content, number, "train") for number in range(1, 5)]
    found = secure_grid(Sites(client(counts), tmp_path / "keys")).workflow.train(messages, timeout_s=1.0)
    after = found.array_records["arrays"].to_numpy_ndarrays()
    assert [array.dtype for array in after] == [array.dtype for array in initial]
    assert [array.shape for array in after] == [(), (2, 1), (3,)]
    assert after[0] == 7
    np.testing.assert_allclose(after[1], 0.25, atol=BOUND)


def test_nothing_of_one_site_travels_in_clear(tmp_path: Path) -> None:
    sites = Sites(client(), tmp_path / "keys")
    start(FedAvg(fraction_evaluate=0.0), secure_grid(sites), rounds=1)
    assert len(sites.replies) == 5 * len(NAMES)
    for content in sites.replies:
        assert content.keys() <= {"fedfleet.secagg", "fedfleet.vector"}
        assert content.config_records["fedfleet.secagg"].keys() == {"payload"}
    masked = [
        content.array_records["fedfleet.vector"]["vector"].numpy()
        for content in sites.replies
        if "fedfleet.vector" in content
    ]
    assert [(vector.dtype, vector.shape) for vector in masked] == [(np.dtype("<u4"), (3 + 4 + 3,))] * 4


@pytest.mark.parametrize("stage", ["advertise", "share", "mask", "agree", "unmask"])
@pytest.mark.parametrize("wrong", ["silent", "crashed"])
def test_a_site_that_drops_out_leaves_the_exact_mean_of_the_others(tmp_path: Path, stage: str, wrong: str) -> None:
    def goes_wrong(site: str, at: str) -> str | None:
        return wrong if (site, at) == ("site-3", stage) else None

    sites = Sites(client(), tmp_path / "keys", goes_wrong=goes_wrong)
    grid = secure_grid(sites)
    found = start(FedAvg(fraction_evaluate=0.0), grid, rounds=1)
    (result,) = grid.workflow.results
    survivors = [1, 2, 3, 4] if stage in ("agree", "unmask") else [1, 2, 4]
    assert result.survivors == tuple(f"site-{i}" for i in survivors)
    expected = np.average([0.5 * i for i in survivors], weights=[10 * i for i in survivors])
    np.testing.assert_allclose(found.arrays.to_numpy_ndarrays()[0], expected, atol=BOUND)


def test_an_attempt_that_fails_is_made_again_with_fresh_keys(tmp_path: Path) -> None:
    first = {"site-1", "site-2"}

    def goes_wrong(site: str, stage: str) -> str | None:
        if stage == "agree" and site in first:
            first.discard(site)
            return "silent"
        return None

    sites = Sites(client(), tmp_path / "keys", goes_wrong=goes_wrong)
    grid = secure_grid(sites)
    start(FedAvg(fraction_evaluate=0.0), grid, rounds=1)
    assert ("site-4", "forget") in sites.asked
    assert len(grid.workflow.results[0].survivors) == 4


def test_sites_that_revealed_in_vain_take_part_again(tmp_path: Path) -> None:
    first = {"site-1", "site-2"}

    def goes_wrong(site: str, stage: str) -> str | None:
        if stage == "unmask" and site in first:
            first.discard(site)
            return "forgets"
        return None

    sites = Sites(client(), tmp_path / "keys", goes_wrong=goes_wrong)
    receipts = tmp_path / "receipts"
    grid = secure_grid(sites, receipts=receipts)
    start(FedAvg(fraction_evaluate=0.0), grid, rounds=2)
    assert sorted(path.name for path in receipts.iterdir()) == ["round-2.json", "round-3.json"]
    roster = parse_roster(sites.credentials.roster)
    found = verify_receipt((receipts / "round-3.json").read_bytes(), roster, sites.credentials.roster)
    assert found.survivors == tuple(NAMES)


def test_a_site_that_refuses_is_left_out_of_the_next_attempt(tmp_path: Path) -> None:
    sites = Sites(client(), tmp_path / "keys", names=[*NAMES, "site-5"])
    for name in ("site-2", "site-5"):
        (tmp_path / "keys" / name / "policy.toml").write_text("[secagg]\nmin_aggregate = 5\n")

    # They object to the survivors when one site has dropped, and the attempt is lost.
    first = ["site-1"]
    sites.goes_wrong = lambda site, stage: "silent" if stage == "mask" and site in first and not first.clear() else None
    grid = secure_grid(sites)
    start(FedAvg(fraction_evaluate=0.0), grid, rounds=1)
    assert grid.workflow.results[0].survivors == ("site-1", "site-3", "site-4")
    stages = ["advertise", "share", "mask", "agree", "forget"]
    assert [stage for site, stage in sites.asked if site == "site-5"] == stages


def test_a_reply_that_secure_aggregation_cannot_take_names_the_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = {
        0: {"metrics": MetricRecord({"num-examples": 1})},
        1: {"arrays": ArrayRecord([np.zeros(2, np.float32)]), "metrics": MetricRecord({"num-examples": 1})},
        2: {"arrays": ArrayRecord(INITIAL), "metrics": MetricRecord({"loss": 1.0})},
        3: {"arrays": ArrayRecord([INITIAL[0] + np.nan, INITIAL[1]]), "metrics": MetricRecord({"num-examples": 1})},
    }

    def faulty(message: Message, context: Context) -> Message:
        return Message(RecordDict(faults[int(context.node_config["partition-id"])]), reply_to=message)

    with pytest.raises(RunError, match="0 sites can take part"):
        start(FedAvg(fraction_evaluate=0.0), secure_grid(Sites(client(faulty), tmp_path / "keys")), rounds=1)
    for words in ("has 0 ArrayRecords", "0 has shape [2], expected [3]", "no metric num-examples", "NaN or infinity"):
        assert words in caplog.text


def test_a_site_with_the_mod_refuses_to_train_in_clear(tmp_path: Path) -> None:
    sites = Sites(client(), tmp_path / "keys")
    message = Message(RecordDict({"arrays": ArrayRecord(INITIAL), "config": ConfigRecord({"rate": 1.0})}), 1, "train")
    with pytest.raises(SecAggError, match="asks for an update in clear"):
        sites.app(message, sites.contexts[1])
    del sites.contexts[1].node_config["secagg-dir"]
    asked = Message(RecordDict({"fedfleet.secagg": ConfigRecord({"stage": "advertise"})}), 1, "train")
    with pytest.raises(ConfigError, match="this site has no keys"):
        sites.app(asked, sites.contexts[1])


def test_sites_without_the_mod_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RunError, match="0 sites advertised keys"):
        start(FedAvg(fraction_evaluate=0.0), secure_grid(Sites(client(secure=False), tmp_path / "keys")), rounds=1)
    assert "site-1 is out" in caplog.text


def test_evaluation_in_clear_has_to_be_asked_for(tmp_path: Path) -> None:
    sites = Sites(client(), tmp_path / "keys")
    with pytest.raises(ConfigError, match="would show the server each site's metrics"):
        start(FedAvg(), secure_grid(sites), rounds=1)
    found = start(FedAvg(), secure_grid(sites, evaluate_in_clear=True), rounds=1)
    assert found.evaluate_metrics_clientapp[1]["loss"] == 1.0


def test_a_site_that_requires_secure_aggregation_does_not_evaluate_in_clear(tmp_path: Path) -> None:
    sites = Sites(client(), tmp_path / "keys")
    (tmp_path / "keys" / "site-1" / "policy.toml").write_text("[secagg]\nrequired = true\n")
    asked = Message(RecordDict(), 1, "evaluate")
    with pytest.raises(PolicyError, match=r"secagg\.required = True"):
        sites.app(asked, sites.contexts[1])
    assert not sites.app(asked, sites.contexts[2]).has_error()


def test_a_node_that_the_roster_lacks_is_not_sampled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sites = Sites(client(), tmp_path / "keys")
    sites.names[9] = "stranger"
    grid = secure_grid(sites)
    assert list(grid.get_node_ids()) == [1, 2, 3, 4]
    assert [node.name for node in grid.get_nodes()] == NAMES
    assert "stranger takes no part" in caplog.text


def test_two_sites_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="2 sites can take part, secure aggregation needs 3"):
        start(FedAvg(fraction_evaluate=0.0), secure_grid(Sites(client(), tmp_path / "keys", NAMES[:2])), rounds=1)


def test_credentials_are_read_from_the_directory_that_the_run_config_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"authority\.pub"):
        Credentials.from_directory(tmp_path)


def test_the_example_learns_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples" / "secagg_app")
    from secagg_app import client as example
    from secagg_app import server

    sites = Sites(example.app, tmp_path / "keys")
    directory = tmp_path / "server"
    directory.mkdir()
    credentials = sites.credentials
    write_private_key(directory / "aggregator.key", credentials.identity.key)
    (directory / "roster.json").write_bytes(credentials.roster)
    (directory / "authority.pub").write_text(credentials.authority.hex())
    config = {"rounds": 3, "examples": 200, "pause-s": 0.0, "receipts": "", "secagg": str(directory)}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    server.app(sites, context)
    found = re.search(r"slope (\S+) and offset (\S+)", capsys.readouterr().out)
    assert found
    assert [float(number) for number in found.groups()] == pytest.approx([example.SLOPE, example.OFFSET], abs=0.05)
