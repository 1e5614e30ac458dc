"""What travels of a model."""

import numpy as np
import pytest
import torch
from torch import nn

from fl.errors import TaskError
from fl.tasks import parameters


def small():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_floating_point_tensors_travel_in_the_order_of_the_state_dict():
    arrays = parameters.get(small())
    assert list(arrays) == ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    assert all(array.dtype == np.float32 for array in arrays.values())


def test_what_was_taken_is_put_back_the_same():
    mine, other = small(), small()
    parameters.set(other, parameters.get(mine))
    for name, array in parameters.get(other).items():
        assert np.array_equal(array, parameters.get(mine)[name])


def test_what_was_taken_does_not_change_with_the_model():
    model = small()
    arrays = parameters.get(model)
    before = arrays["0.weight"].copy()
    with torch.no_grad():
        model[0].weight.add_(1)
    assert np.array_equal(arrays["0.weight"], before)


def test_other_types_come_back_as_they_were():
    model = nn.Linear(3, 2).to(torch.bfloat16)
    arrays = parameters.get(model)
    assert arrays["weight"].dtype == np.float32
    parameters.set(model, {name: array + 1 for name, array in arrays.items()})
    assert model.weight.dtype == torch.bfloat16
    assert torch.allclose(model.weight.float(), torch.tensor(arrays["weight"] + 1), atol=0.01)


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_can_be_put_into_a_model():
    arrays = parameters.get(small())
    for array in arrays.values():
        array.flags.writeable = False
    parameters.set(small(), arrays)


def test_the_order_of_names_does_not_matter():
    model, arrays = small(), parameters.get(small())
    parameters.set(model, dict(reversed(arrays.items())))
    assert np.array_equal(parameters.get(model)["0.bias"], arrays["0.bias"])


def change(arrays, **other):
    return {name: array for name, array in {**arrays, **other}.items() if array is not None}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"0.bias": None}, "0.bias is missing"),
        ({"0.bias": np.zeros(3, np.float32)}, r"0.bias has shape \[3\], expected \[2\]"),
        ({"2.bias": np.zeros(3, np.float32)}, "2.bias is not a parameter of the model"),
    ],
)
def test_parameters_of_another_model_are_refused_by_name(other, message):
    model = small()
    before = parameters.get(model)
    with pytest.raises(TaskError, match=message):
        parameters.set(model, change({name: array + 1 for name, array in before.items()}, **other))
    assert all(np.array_equal(array, before[name]) for name, array in parameters.get(model).items())


def test_a_complex_parameter_is_refused_by_name():
    with pytest.raises(TaskError, match="the parameter weight is complex"):
        parameters.get(nn.Linear(2, 2, dtype=torch.complex64))
