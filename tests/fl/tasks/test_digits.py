"""The task digits."""

import numpy as np
import pytest

from fl.errors import TaskError
from fl.tasks import Site, TrainingConfig, create
from fl.tasks.loop import centralised

DIGITS = create("digits", {})


def images(dataset):
    """The images of a dataset as a set of bytes, to compare datasets; 1,797 digits are all different."""
    return {inputs.numpy().tobytes() for inputs, _ in dataset}


def test_all_digits_are_different():
    everything = [DIGITS.train_data(Site("a")), DIGITS.evaluation_data(Site("a")), DIGITS.centre_data()]
    assert len(set().union(*map(images, everything))) == 1797 == sum(len(part) for part in everything)


def test_a_cnn_reaches_97_percent_in_few_epochs():
    result = centralised(DIGITS, TrainingConfig(), epochs=8, seed=1)
    assert result.num_examples == 359
    assert result.training.num_examples == 1438
    assert result.metrics["accuracy"] > 0.97


def test_an_mlp_learns_too():
    assert (
        centralised(create("digits", {"network": "mlp"}), TrainingConfig(), epochs=8, seed=1).metrics["accuracy"] > 0.93
    )


def test_partitions_share_no_digit_and_leave_the_centres_out():
    parts = []
    for number in range(3):
        site = Site(f"site-{number}", partition_id=number, num_partitions=3)
        parts += [images(DIGITS.train_data(site)), images(DIGITS.evaluation_data(site))]
    parts.append(images(DIGITS.centre_data()))
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == 1797
    assert [len(part) for part in parts[:2]] == [384, 96]


def test_a_site_with_a_shard_reads_only_that(tmp_path):
    labels = DIGITS.labels(None)
    indices = np.flatnonzero(labels == 7)[:50]
    DIGITS.write_shard(None, indices, tmp_path)
    site = Site("a", data_dir=tmp_path, partition_id=9)
    train, evaluation = DIGITS.train_data(site), DIGITS.evaluation_data(site)
    assert (len(train), len(evaluation)) == (40, 10)
    assert {int(label) for part in (train, evaluation) for _, label in part} == {7}
    assert not images(train) & images(evaluation)
    pool = images(DIGITS.train_data(Site("b"))) | images(DIGITS.evaluation_data(Site("b")))
    assert images(train) | images(evaluation) <= pool


def test_what_a_site_keeps_for_evaluation_depends_on_its_name_alone(tmp_path):
    DIGITS.write_shard(None, np.arange(100), tmp_path)
    kept = [images(DIGITS.evaluation_data(Site(name, data_dir=tmp_path))) for name in ("a", "a", "b")]
    assert kept[0] == kept[1] != kept[2]


def test_a_site_with_one_digit_trains_on_it(tmp_path):
    DIGITS.write_shard(None, np.array([5]), tmp_path)
    site = Site("a", data_dir=tmp_path)
    assert (len(DIGITS.train_data(site)), len(DIGITS.evaluation_data(site))) == (1, 0)


def test_a_site_without_digits_is_named(tmp_path):
    DIGITS.write_shard(None, np.array([], np.int64), tmp_path)
    with pytest.raises(TaskError, match="site ward-3 has no examples"):
        DIGITS.train_data(Site("ward-3", data_dir=tmp_path))


def test_a_site_without_a_file_is_named_with_its_path(tmp_path):
    with pytest.raises(TaskError, match=f"site ward-3 has no {tmp_path}/digits.npz"):
        DIGITS.train_data(Site("ward-3", data_dir=tmp_path))


def test_a_part_that_does_not_exist_is_refused():
    with pytest.raises(TaskError, match="site a asks for part 3 of 3"):
        DIGITS.train_data(Site("a", partition_id=3, num_partitions=3))


def test_another_source_is_refused(tmp_path):
    with pytest.raises(TaskError, match="the task digits brings its own data"):
        DIGITS.labels(tmp_path)


def arrays(images=(4, 8, 8), labels=(4,), label=1, kind=float):
    return {"images": np.zeros(images, kind), "labels": np.full(labels, label)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read .*digits.npz: "),
        (b"not a zip file at all", "cannot read .*digits.npz: "),
        ({"images": np.zeros((1, 8, 8))}, "cannot read .*digits.npz: .*labels"),
        (arrays(images=(4, 9, 8)), r"holds images \[4, 9, 8\] and labels \[4\], must be \[n, 8, 8\] and \[n\]"),
        (arrays(labels=(3,)), r"holds images \[4, 8, 8\] and labels \[3\]"),
        (arrays(label=10), "holds the labels 10 to 10, must be 0 to 9"),
        (arrays(kind="U3"), "holds images of type <U3 and labels of type int64, must be numbers"),
        ({"images": np.zeros((1, 8, 8), object), "labels": np.zeros(1, int)}, "cannot read .*allow_pickle"),
    ],
)
def test_a_damaged_shard_is_refused_by_its_path(tmp_path, content, message):
    path = tmp_path / "digits.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(TaskError, match=message):
        DIGITS.train_data(Site("a", data_dir=tmp_path))


def test_a_shard_cut_short_is_refused(tmp_path):
    DIGITS.write_shard(None, np.arange(300), tmp_path)
    path = tmp_path / "digits.npz"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(TaskError, match=r"cannot read .*digits\.npz"):
        DIGITS.train_data(Site("a", data_dir=tmp_path))
