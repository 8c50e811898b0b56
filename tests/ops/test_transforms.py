"""Forward-mode differentiation and torch.func: every op gives the derivatives that its fused backward gives."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import fastops
from fastops import reference

IMAGE, CHANNEL = (3, 4, 7, 9), (4,)
BOXES = [(3, 4), (3, 4)]
#: Function -> shapes of its tensors, and what follows them.
OPS: dict[str, tuple[list[tuple[int, ...]], tuple]] = {
    "mish": ([IMAGE], ()),
    "mish_": ([IMAGE], ()),
    "affine_mish": ([IMAGE, CHANNEL, CHANNEL], ()),
    "batch_norm_mish": ([IMAGE], (None, None, None, None, True)),
    "mish_max_pool2d": ([IMAGE], (3, 2)),
    "adaptive_sigmoid": ([IMAGE, (), (), (), ()], ()),
    "adaptive_tanh": ([IMAGE, CHANNEL, CHANNEL, CHANNEL, CHANNEL], ()),
    "adaptive_relu": ([IMAGE, (), (), (), ()], ()),
    "se_scale": ([IMAGE, (3, 4)], ()),
    "se_attention": ([IMAGE, (2, 4), (2,), (4, 2), (4,)], ()),
    "xcorr": ([(1, 4, 2, 3), IMAGE], (0.1,)),
    "bias_activation": ([IMAGE, (4,)], ("mish", 2, 1)),
    "xcorr_depthwise": ([(3, 4, 2, 3), IMAGE], ()),
    "balanced_logistic_loss": ([(3, 1, 7, 7)], (3.0,)),
    "iou_loss": (BOXES, ("cxcywh",)),
    "giou_loss": (BOXES, ("cxcywh",)),
    "diou_loss": (BOXES, ("cxcywh",)),
    "ciou_loss": (BOXES, ("cxcywh",)),
    "eiou_loss": (BOXES, ("cxcywh",)),
    "focal_eiou_loss": (BOXES, (0.5, "cxcywh")),
    "focal_l1_loss": (BOXES, ()),
}
each_op = pytest.mark.parametrize("name", OPS)


def function(name: str):
    """The op of its tensors alone; of a copy where it writes."""
    op, (_, settings) = getattr(fastops, name), OPS[name]
    return lambda x, *others: op(x.clone() if name.endswith("_") else x, *others, *settings)


def tensors(name: str, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(shape, dtype=torch.float64, generator=generator) + 0.5 for shape in OPS[name][0])


def test_every_op_is_here():
    twins = {name for name in fastops.__all__ if inspect.isfunction(getattr(reference, name, None))}
    not_differentiable = {"box_peak", "centralize_gradients_", "crop_and_resize", "response_peak"}
    assert twins - not_differentiable == OPS.keys()


def assert_tangent(name: str, output: Tensor, tangent: Tensor, inputs: tuple, directions: tuple) -> None:
    """<u, J v> = <J^T u, v>, where J^T u comes from the fused backward."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    expected = function(name)(*leaves)
    torch.testing.assert_close(output, expected.detach(), rtol=1e-12, atol=1e-12)
    u = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    grads = torch.autograd.grad(expected, leaves, u)
    wanted = sum((g * v).sum() for g, v in zip(grads, directions, strict=True))
    assert wanted.abs() > 1e-6
    torch.testing.assert_close((u * tangent).sum(), wanted, rtol=1e-9, atol=0)


@each_op
def test_forward_mode(name):
    inputs, directions = tensors(name), tensors(name, seed=1)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, directions, strict=True)]
        assert_tangent(name, *forward_ad.unpack_dual(function(name)(*duals)), inputs, directions)
    assert_tangent(name, *torch.func.jvp(function(name), inputs, directions), inputs, directions)


@each_op
def test_gradients_of_torch_func(name):
    inputs = tensors(name)
    positions = tuple(range(len(inputs)))
    leaves = [t.clone().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(function(name)(*leaves).sum(), leaves)
    actual = torch.func.grad(lambda *ts: function(name)(*ts).sum(), positions)(*inputs)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


def test_hessian_and_gradients_of_samples():
    x = tensors("mish")[0].flatten()[:12]
    wide = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(fastops.mish(wide).sum(), wide, create_graph=True)
    (expected,) = torch.autograd.grad(slope.sum(), wide)
    hessian = torch.func.hessian(lambda t: fastops.mish(t).sum())(x)
    torch.testing.assert_close(hessian, torch.diag(expected))
    for inner in (fastops.mish, torch.vmap(fastops.mish)):  # a transform below the vmap, and above it
        samples = torch.vmap(torch.func.grad(lambda t, inner=inner: inner(t).sum()))(x.view(4, 3))
        torch.testing.assert_close(samples.flatten(), slope.detach())


def test_vmap_alone_runs_the_op(monkeypatch):
    monkeypatch.setattr(reference, "mish", None)
    x = tensors("mish")[0]
    assert torch.equal(torch.vmap(fastops.mish)(x), fastops.mish(x))


@pytest.mark.usefixtures("one_thread")
def test_an_accelerated_network_has_gradients_of_samples():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Mish(), nn.Conv2d(4, 4, 3), nn.Mish(), nn.MaxPool2d(2)
    model = nn.Sequential(*layers).double().eval()
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64)

    def gradients():
        def loss(parameters, image):
            return torch.func.functional_call(model, parameters, (image[None],)).square().sum()

        parameters = {name: p.detach() for name, p in model.named_parameters()}
        return torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)

    expected = gradients()
    assert fastops.acceleration_report(fastops.accelerate(model, verbose=False)).changed
    for name, actual in gradients().items():
        torch.testing.assert_close(actual, expected[name], rtol=1e-9, atol=1e-12)


def test_frozen_convolution_has_a_tangent():
    conv = nn.Conv2d(16, 16, 3)
    frozen = fastops.nn.FrozenConv2d(conv, activation="mish")
    x, direction = torch.randn(2, 1, 16, 28, 28).unbind()
    frozen(x)
    assert frozen._packed  # Winograd's way, which has no derivatives
    y, tangent = torch.func.jvp(frozen, (x,), (direction,))
    expected = torch.func.jvp(lambda t: nn.functional.mish(conv(t)), (x,), (direction,))[1]
    torch.testing.assert_close(tangent, expected.detach(), rtol=1e-3, atol=1e-4)


def slopes(t: Tensor) -> Tensor:
    return torch.func.grad(lambda s: fastops.mish(s).sum())(t)


COMPILED = {
    "grad": (slopes, False),
    "jvp": (lambda t: torch.func.jvp(fastops.mish, (t,), (torch.ones_like(t),))[1], False),
    "vmap_of_grad": (torch.vmap(torch.func.grad(fastops.mish)), False),
    "grad_of_vmap": (lambda t: torch.func.grad(lambda s: torch.vmap(fastops.mish)(s).sum())(t), False),
    "vmap": (lambda t: torch.vmap(fastops.mish)(t), True),
}


@pytest.mark.parametrize("run, fused", COMPILED.values(), ids=COMPILED)
def test_transforms_in_a_compiled_graph(run, fused):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph.code)
        return graph.forward

    x = tensors("mish")[0].flatten()[:5]
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend=backend)(x), run(x))
    assert len(graphs) == 1 and ("fastops" in graphs[0]) == fused


def test_a_compiled_function_in_a_transform():
    torch._dynamo.reset()
    x = tensors("mish")[0].flatten()[:5]
    compiled = torch.compile(lambda t: 2 * fastops.mish(t), backend="eager")
    assert torch.equal(compiled(x), 2 * fastops.mish(x))
    torch.testing.assert_close(torch.func.grad(lambda t: compiled(t).sum())(x), 2 * slopes(x))
    assert torch.equal(compiled(x), 2 * fastops.mish(x))
