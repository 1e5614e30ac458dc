"""The task tabular."""

import csv
import datetime

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.datasets import load_breast_cancer, load_diabetes

from fl.errors import TaskError
from fl.tasks import Site, TrainingConfig, create
from fl.tasks.loop import centralised

ROWS = [[age, age * 2.5, "ill" if age > 30 else "well"] for age in range(20, 45)]
OPTIONS = {"target": "state", "columns": ["age", "weight"], "classes": ["well", "ill"]}


def write_csv(path, rows=ROWS, header=("age", "weight", "state"), separator=","):
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])
    return path


def write_parquet(path, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


def train_data(directory, **options):
    return create("tabular", {**OPTIONS, **options}).train_data(Site("ward-3", data_dir=directory))


def test_a_model_learns_a_real_table(tmp_path):
    data = load_breast_cancer()
    columns = [name.replace(" ", "_") for name in data.feature_names]
    rows = [[*values, data.target_names[kind]] for values, kind in zip(data.data, data.target, strict=True)]
    path = write_csv(tmp_path / "all.csv", rows, [*columns, "kind"])
    task = create(
        "tabular", {"target": "kind", "columns": columns, "classes": ["malignant", "benign"], "path": str(path)}
    )
    result = centralised(task, TrainingConfig(), epochs=5, seed=1)
    assert result.num_examples == 114
    assert result.metrics["accuracy"] > 0.93


def test_a_number_is_predicted_in_its_own_unit(tmp_path):
    data = load_diabetes()
    rows = np.column_stack([data.data, data.target]).tolist()
    path = write_csv(tmp_path / "all.csv", rows, [*data.feature_names, "progress"])
    options = {"target": "progress", "columns": data.feature_names, "path": str(path), "target_mean": 150.0}
    task = create("tabular", {**options, "target_std": 75.0})
    result = centralised(task, TrainingConfig(learning_rate=0.01), epochs=5, seed=1)
    by_the_mean = np.abs(data.target - data.target.mean()).mean()
    assert 30 < result.metrics["mae"] < 0.9 * by_the_mean


def test_csv_and_parquet_are_read_alike(tmp_path):
    ages, weights, states = zip(*ROWS, strict=True)
    (tmp_path / "csv").mkdir()
    (tmp_path / "parquet").mkdir()
    write_csv(tmp_path / "csv" / "a.csv")
    write_parquet(
        tmp_path / "parquet" / "a.parquet", age=pa.array(ages, pa.int16()), weight=weights, state=states, more=ages
    )
    for one, other in zip(train_data(tmp_path / "csv"), train_data(tmp_path / "parquet"), strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (pa.array([0, 1] * 5, pa.int8()), [0, 1]),
        (pa.array([0.0, 1.0] * 5), [0, 1]),
        (pa.array([False, True] * 5), [False, True]),
        (pa.array(["0", "1 "] * 5), ["0", 1]),
        (pa.array(["no", "yes"] * 5).dictionary_encode(), ["no", "yes"]),
        (pa.array(["no", "yes"] * 5, pa.large_string()), ["no", "yes"]),
    ],
)
def test_classes_may_be_numbers_texts_and_truths(tmp_path, column, classes):
    write_parquet(tmp_path / "a.parquet", age=range(10), weight=range(10), state=column)
    task = create("tabular", {**OPTIONS, "classes": classes})
    assert task.labels(tmp_path / "a.parquet").tolist() == [0, 1] * 5


def test_columns_are_standardised_by_the_sites_training_rows(tmp_path):
    write_csv(tmp_path / "a.csv", [[age, 7, "well"] for age in range(100, 150)])
    task = create("tabular", OPTIONS)
    site = Site("a", data_dir=tmp_path)
    train, evaluation = (part.tensors[0].numpy() for part in (task.train_data(site), task.evaluation_data(site)))
    assert (len(train), len(evaluation)) == (40, 10)
    assert train[:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert train[:, 0].std() == pytest.approx(1, abs=1e-6)
    assert not train[:, 1].any()  # a constant column says nothing
    # Evaluation rows are moved and scaled as the training rows: one year is the same distance in both.
    years = np.sort(np.concatenate([train[:, 0], evaluation[:, 0]]))
    assert np.allclose(np.diff(years), np.diff(years).mean(), atol=1e-5)


def test_a_missing_value_becomes_the_mean_if_asked(tmp_path):
    write_csv(tmp_path / "a.csv", [["NA", 7, "well"], [" ", 7, "well"]] * 20 + ROWS)
    inputs = train_data(tmp_path, missing="mean").tensors[0].numpy()
    assert np.isfinite(inputs).all()
    known = inputs[inputs[:, 0] != 0]
    assert 5 <= len(known) < len(inputs)
    assert known[:, 0].mean() == pytest.approx(0, abs=1e-6)


def test_only_the_columns_that_are_named_are_read(tmp_path):
    write_csv(tmp_path / "a.csv", [[*row, "Ada"] for row in ROWS], ["age", "weight", "state", "name"])
    assert train_data(tmp_path).tensors[0].shape == (20, 2)


def test_shards_hold_the_rows_they_were_given(tmp_path):
    source = write_csv(tmp_path / "all.csv", [[*row, "Ada"] for row in ROWS], ["age", "weight", "state", "name"])
    task = create("tabular", {**OPTIONS, "path": str(source)})
    shard = tmp_path / "shard"
    shard.mkdir()
    task.write_shard(None, np.array([0, 3, 24]), shard)
    (file,) = shard.iterdir()
    table = parquet.read_table(file).to_pydict()
    assert table == {"age": ["20", "23", "44"], "weight": ["50.0", "57.5", "110.0"], "state": ["well", "well", "ill"]}
    assert len(task.train_data(Site("a", data_dir=shard))) == 2


def test_sites_without_a_directory_share_the_path(tmp_path):
    source = write_csv(tmp_path / "all.csv")
    task = create("tabular", {**OPTIONS, "path": str(source)})
    sites = [Site(f"s{number}", partition_id=number, num_partitions=2) for number in range(2)]
    assert [len(task.train_data(site)) + len(task.evaluation_data(site)) for site in sites] == [13, 12]


def test_the_centre_may_have_a_table_of_its_own(tmp_path):
    source = write_csv(tmp_path / "centre.csv", ROWS[:9])
    assert len(create("tabular", {**OPTIONS, "centre": str(source)}).centre_data()) == 9
    assert create("tabular", OPTIONS).centre_data() is None


def test_a_number_is_divided_by_its_tenths(tmp_path):
    source = write_csv(tmp_path / "a.csv", [[1, 1, number] for number in range(1000)])
    labels = create("tabular", {"target": "state", "columns": ["age"]}).labels(source)
    assert np.bincount(labels).tolist() == [100] * 10


def test_other_separators_are_read(tmp_path):
    write_csv(tmp_path / "a.csv", separator=";")
    assert len(train_data(tmp_path, separator=";")) == 20


def refused(directory, **options):
    with pytest.raises(TaskError) as caught:
        train_data(directory, **options)
    return caught.value


def test_a_missing_column_is_named_with_the_one_that_was_meant(tmp_path):
    path = write_csv(tmp_path / "a.csv", header=["age", "weihgts", "state"])
    error = refused(tmp_path)
    assert (error.message, error.hint) == (f"{path} has no column weight", "did you mean weihgts?")


def test_the_wrong_separator_shows_in_the_columns(tmp_path):
    path = write_csv(tmp_path / "a.csv", separator=";")
    error = refused(tmp_path)
    assert (error.message, error.hint) == (f"{path} has no column age", "known: age;weight;state")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = write_csv(tmp_path / "a.csv", header=["age", "age", "state"])
    assert refused(tmp_path, columns=["age"]).message == f"{path} has 2 columns age"


@pytest.mark.parametrize("value", ["thirty", "1,5", "1 2", "0x10"])
def test_a_value_that_is_no_number_is_named_with_its_row(tmp_path, value):
    path = write_csv(tmp_path / "a.csv", [*ROWS[:4], [value, 70, "ill"], *ROWS[4:]])
    assert refused(tmp_path).message == f"{path}: column age holds {value!r} in row 5, which is no number"


def test_an_infinite_value_is_named_with_its_row(tmp_path):
    path = write_csv(tmp_path / "a.csv", [*ROWS[:2], ["inf", 70, "ill"]])
    assert refused(tmp_path).message == f"{path}: column age holds inf in row 3, which is not finite"


@pytest.mark.parametrize("value", ["", "NA", "nan", " "])
def test_an_empty_value_is_named_with_its_row(tmp_path, value):
    path = write_csv(tmp_path / "a.csv", [*ROWS[:2], [30, value, "ill"]])
    error = refused(tmp_path)
    assert error.message == f"{path}: column weight is empty in row 3"
    assert error.hint == 'fill it, or set task.missing = "mean"'


def test_an_unknown_class_is_named_with_its_row(tmp_path):
    path = write_csv(tmp_path / "a.csv", [*ROWS[:2], [30, 70, "dead"]])
    error = refused(tmp_path)
    assert error.message == f"{path}: column state holds 'dead' in row 3, which is none of the classes"
    assert error.hint == "task.classes names well, ill"


def test_an_empty_class_is_named_with_its_row(tmp_path):
    path = write_csv(tmp_path / "a.csv", [*ROWS[:2], [30, 70, ""]])
    assert refused(tmp_path).message == f"{path}: column state is empty in row 3"


def test_an_empty_number_to_predict_is_named_with_its_row(tmp_path):
    path = write_csv(tmp_path / "a.csv", [[1, 2, 3], [1, 2, ""]])
    assert refused(tmp_path, classes=[], missing="mean").message == f"{path}: column state is empty in row 2"


def test_a_column_of_another_type_is_named(tmp_path):
    days = [datetime.date(2026, 1, day) for day in range(1, 11)]
    path = write_parquet(tmp_path / "a.parquet", age=days, weight=range(10), state=["ill"] * 10)
    assert refused(tmp_path).message == f"{path}: column age holds values of type date32[day], not numbers"


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.touch()
    assert refused(tmp_path).message == f"{path} is empty"


def test_a_site_with_a_header_and_no_rows_is_named(tmp_path):
    path = write_csv(tmp_path / "a.csv", [])
    assert refused(tmp_path).message == f"site ward-3 has no examples in {path}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 is not all that it takes"),
        ("a.csv", b"age,weight,state\n1,2\n"),
        ("a.csv", "age,weight,state\n1,2,größer\n".encode("latin-1")),
        ("a.csv", "größe,weight,state\n1,2,ill\n".encode("latin-1")),
    ],
)
def test_a_damaged_file_is_refused_by_its_path(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path).message.startswith(f"cannot read {tmp_path / name}: ")


def test_a_file_cut_short_is_refused(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", age=range(1000), weight=range(1000), state=["ill"] * 1000)
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(tmp_path).message.startswith(f"cannot read {path}: ")


def test_a_directory_without_a_table_is_refused(tmp_path):
    (tmp_path / "readme.txt").touch()
    assert refused(tmp_path).message == f"site ward-3 has no .csv or .parquet file in {tmp_path}"
    assert refused(tmp_path / "nowhere").message == f"there is no {tmp_path / 'nowhere'}"


def test_two_tables_are_refused(tmp_path):
    write_csv(tmp_path / "a.csv")
    write_csv(tmp_path / "b.csv")
    error = refused(tmp_path)
    assert (error.message, error.hint) == (f"site ward-3 has 2 tables in {tmp_path}: a.csv, b.csv", "leave one there")


def test_a_site_without_any_data_is_named():
    assert refused(None).message == "site ward-3 has no data directory, and task.path is not set"


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "a.xlsx"
    path.touch()
    assert refused(None, path=str(path)).message == f"{path} is neither a .csv nor a .parquet file"


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    assert refused(None, path=str(tmp_path / "a.csv")).message == f"there is no {tmp_path / 'a.csv'}"


def test_nothing_to_divide_is_refused():
    with pytest.raises(TaskError, match="the task tabular has no table to divide"):
        create("tabular", OPTIONS).labels(None)


def test_the_other_fields_of_a_shape_are_those_of_the_options():
    model = create("tabular", {**OPTIONS, "hidden": []}).model()
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(2, 2), (2,)]
    model = create("tabular", {**OPTIONS, "hidden": [5], "classes": []}).model()
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(5, 2), (5,), (1, 5), (1,)]
