"""`fastops.replace_activations`: what is replaced, by what, and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastops


def network() -> nn.Sequential:
    shared = nn.ReLU(inplace=True)
    inner = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU6(), nn.Conv2d(6, 4, 1), shared, nn.Conv2d(4, 4, 1), shared)
    return nn.Sequential(nn.Conv2d(3, 4, 3), shared, inner, nn.Flatten(), nn.Linear(4 * 4, 5), nn.ReLU()).double()


def test_a_network_stays_what_it_was_and_learns_its_activations():
    torch.manual_seed(0)
    model, x = network(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    expected, before = model(x), list(model.modules())
    replaced = fastops.replace_activations(model, nn.ReLU, fastops.nn.AReLU)
    assert sorted(replaced.names) == ["1", "2.3", "2.5", "5"]
    assert (
        isinstance(model[1], fastops.nn.AReLU) and model[1] is model[2][3] is model[2][5] and model[1] is not model[5]
    )
    assert isinstance(model[2][1], nn.ReLU6)
    assert model[1].a.dtype == torch.float64
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    assert model[1].a.grad is not None
    replaced.restore()
    assert list(model.modules()) == before
    torch.testing.assert_close(model(x), expected)


def test_one_set_of_parameters_per_channel():
    model, x = network().train(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    fastops.replace_activations(model, (nn.ReLU, nn.ReLU6), fastops.nn.ATanh, example=x)
    assert [model[i].num_parameters for i in (1, 5)] == [4, 5] and model[2][1].num_parameters == 6
    assert model.training and model[1].training
    assert model(x).shape == (2, 5)


def test_what_cannot_be_replaced_is_refused():
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.activation = nn.ReLU()

        def forward(self, x):
            return x

    with pytest.raises(ValueError, match="model must have modules of class GELU, got none"):
        fastops.replace_activations(network(), nn.GELU, fastops.nn.AReLU)
    with pytest.raises(ValueError, match="model must hold the activations, got ReLU itself"):
        fastops.replace_activations(nn.ReLU(), nn.ReLU, fastops.nn.AReLU)
    model = Unused()
    with pytest.raises(ValueError, match="example must reach activation, got an input that does not"):
        fastops.replace_activations(model, nn.ReLU, fastops.nn.AReLU, example=torch.ones(1, 2))
    assert isinstance(model.activation, nn.ReLU)
