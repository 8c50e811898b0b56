"""fastops.accelerate recognises squeeze-and-excitation blocks, batch norms and activations by what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fastops
import fastops._accelerate
from fastops import accelerate, acceleration_report
from fastops._accelerate import squeeze
from tests.support import lookalikes as like
from tests.support.accelerated import MISH, NORM, Net, assert_close, changes, reasons

pytestmark = pytest.mark.usefixtures("one_thread")

# ---- squeeze-and-excitation ----------------------------------------------------------------------------------


class Doubled(like.OriginalSE):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Detached(like.OriginalSE):
    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        return x * self.fc(self.avg_pool(x).view(n, c)).view(n, c, 1, 1).detach()


class DoubledInEval(like.OriginalSE):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else 2 * super().forward(x)


class Unused(like.OriginalSE):
    def forward(self, x: Tensor) -> Tensor:
        return x


def hard_sigmoid_se() -> nn.Module:
    return like.TorchvisionSE(8, 4, scale_activation=nn.Hardsigmoid)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: like.TorchvisionSE(8, 4, nn.SiLU), "it has SiLU, and the fused block only ReLU and Sigmoid"),
        (lambda: like.TorchvisionSE(8, 4, nn.ReLU6), "it has ReLU6, and the fused block only ReLU and Sigmoid"),
        (hard_sigmoid_se, "it has Hardsigmoid, and the fused block only ReLU and Sigmoid"),
        (lambda: like.EfficientSE(8, 4, nn.SiLU), "it has SiLU, and the fused block only ReLU and Sigmoid"),
        (lambda: like.TimmSE(8, 4, gate=nn.Tanh), "it has Tanh, and the fused block only ReLU and Sigmoid"),
        (
            lambda: like.TimmSE(8, 4, add_maxpool=True),
            "it is not x sigmoid(w2 relu(w1 mean(x))): the result differs in training mode",
        ),
        (
            lambda: like.TimmSE(8, 4, norm=nn.BatchNorm2d),
            "it holds more than two layers (bn.weight, bn.bias, bn.running_mean, bn.running_var, "
            "bn.num_batches_tracked)",
        ),
        (lambda: Doubled(8, 4), "it is not x sigmoid(w2 relu(w1 mean(x))): the result differs in training mode"),
        (
            lambda: DoubledInEval(8, 4),
            "it is not x sigmoid(w2 relu(w1 mean(x))): the result differs in eval mode",
        ),
        (
            lambda: Detached(8, 4),
            "it is not x sigmoid(w2 relu(w1 mean(x))): the gradient of the input differs in training mode",
        ),
    ],
)
def test_other_gates_are_left_alone(make, reason):
    model = nn.Sequential(make())
    cls = type(model[0])
    accelerate(model, verbose=False)
    assert type(model[0]) is cls
    assert reasons(model) == {"0": reason}


def two_layers(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 4, 1), *between, nn.Conv2d(4, 8, 1))


@pytest.mark.parametrize(
    "model",
    [
        two_layers(nn.ReLU()),
        nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), two_layers(nn.ReLU()), nn.Sigmoid()),  # the gate alone
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.Conv2d(8, 8, 1),
        nn.Bilinear(1, 8, 8),
        Unused(8, 4),
        two_layers(nn.BatchNorm2d(4), nn.ReLU()),
    ],
)
def test_other_modules_with_two_layers_are_not_mentioned(model):
    accelerate(model, verbose=False)
    assert acceleration_report(model) == fastops._accelerate.AccelerationReport((), ())


def test_layers_that_start_at_zero_do_not_hide_the_rest():
    model = nn.Sequential(like.TorchvisionSE(8, 4, nn.SiLU), like.TorchvisionSE(8, 4)).requires_grad_(False)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    accelerate(model, verbose=False)
    assert [change.name for change in acceleration_report(model).changed] == ["1"]


@pytest.mark.parametrize("make", [like.TorchvisionSE, like.EfficientSE])
def test_an_image_without_a_batch(make):
    torch.manual_seed(0)
    block = make(8, 4)
    x = torch.randn(8, 8, 8)  # [C, H, W], where N = C would do as well
    if make is like.EfficientSE:  # which treats three dimensions differently
        with pytest.raises(IndexError):
            accelerate(block, verbose=False)(x)
        return
    expected = block(x)
    assert torch.equal(accelerate(block, verbose=False)(x), expected)


def test_further_arguments():
    torch.manual_seed(0)
    block, x = like.FunctionalSE(8, 4), torch.randn(2, 8, 5)
    expected, half = block(x), block(x, strength=0.5)
    accelerate(block, verbose=False)
    assert_close(block(x), expected, 1e-6)
    assert_close(block(x, strength=0.5), half, 1e-6)
    assert_close(block(x, 0.5), half, 1e-6)


def test_our_own_block_is_fused_already():
    model = nn.Sequential(fastops.nn.SEAttention(8, 4))
    accelerate(model, verbose=False)
    assert acceleration_report(model) == fastops._accelerate.AccelerationReport((), ())


# ---- batch norms and activations -------------------------------------------------------------------------------


def test_other_batch_norms_are_left_alone():
    class OwnNorm(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    model = nn.Sequential(OwnNorm(4), nn.Mish(), nn.SyncBatchNorm(4), nn.Mish(), nn.LazyBatchNorm2d(), nn.Mish())
    accelerate(model, verbose=False)
    assert changes(model) == {MISH: 3}
    assert set(reasons(model).values()) == {"only BatchNorm1d, BatchNorm2d, BatchNorm3d can be fused"}
    assert list(reasons(model)) == ["0", "2", "4"]


def test_batch_norms_of_other_classes_do_not_stop_the_trace():
    model = Net(lambda net, x: net.act(net.bn(net.conv(net.other(x)))))
    model.other = like.BatchNormAct2d(3, nn.ReLU)
    accelerate(model, verbose=False)
    assert changes(model) == {NORM: 1} and type(model.other) is like.BatchNormAct2d


def test_a_norm_with_dropout_is_left_alone():
    model = nn.Sequential(like.BatchNormAct2d(4, nn.Mish, nn.Dropout))
    accelerate(model, verbose=False)
    assert reasons(model) == {"0": "fused, the result differs in training mode"}
    assert changes(model) == {MISH: 1}  # the activation in it


def test_a_norm_with_a_hook_on_its_activation_is_left_alone():
    model = nn.Sequential(like.BatchNormAct2d(4, nn.Mish))
    model[0].act.register_forward_hook(lambda *_: None)
    accelerate(model, verbose=False)
    assert changes(model) == {}
    assert reasons(model) == {"0": "Mish has hooks", "0.act": "Mish has hooks"}


def test_modules_called_mish():
    model = nn.Sequential(like.Mish(), like.HardMish(), fastops.nn.Mish(), nn.Mish(inplace=True), like.Mish())
    model[4].inplace = True  # claims to, but does not
    accelerate(model, verbose=False)
    assert [type(module) for module in model] == [fastops.nn.Mish, like.HardMish, *[fastops.nn.Mish] * 3]
    assert [getattr(module, "inplace", None) for module in model] == [False, None, False, True, False]
    assert reasons(model) == {"1": "fused, the result differs in training mode"}


def test_a_lone_activation():
    act = nn.Mish()
    assert accelerate(act, verbose=False) is act
    assert reasons(act) == {"": "it is the model itself, and only what a model holds is replaced"}
    assert reasons(accelerate(fastops.nn.Mish(), verbose=False)) == {}


def test_kernels_that_are_wrong_are_not_used(monkeypatch):
    """The comparison before the swap would notice an error of 1 %."""
    se_attention, mish = squeeze.se_attention, fastops.nn.activation.mish
    monkeypatch.setattr(squeeze, "se_attention", lambda *args: 1.01 * se_attention(*args))
    monkeypatch.setattr(fastops.nn.activation, "mish", lambda x: 1.01 * mish(x))
    model = nn.Sequential(like.OriginalSE(4, 2), nn.Mish())
    accelerate(model, verbose=False)
    assert changes(model) == {}
    assert reasons(model) == {
        "0": "it is not x sigmoid(w2 relu(w1 mean(x))): the result differs in training mode",
        "1": "fused, the result differs in training mode",
    }
