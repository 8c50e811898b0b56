"""Balanced logistic loss: labels, centres, tails, reductions, errors."""

from __future__ import annotations

import math

import pytest
import torch

import fastops
from fastops import reference

ops = torch.ops.fastops
INF = float("inf")


def signed_weights(shape: tuple[int, int], center: tuple[float, float], radius: float, stride: float) -> torch.Tensor:
    """y w of every cell in float64; positive for positives."""
    height, width = shape
    inside = torch.tensor(
        [[stride * math.hypot(r - center[0], c - center[1]) <= radius for c in range(width)] for r in range(height)]
    )
    positives = int(inside.sum())
    weight = torch.full(shape, -0.5 / max(height * width - positives, 1), dtype=torch.float64)
    return weight.masked_fill(inside, 0.5 / max(positives, 1))


def slopes(responses: torch.Tensor, *settings, centers: torch.Tensor | None = None) -> torch.Tensor:
    leaf = responses.detach().requires_grad_()
    (grad,) = torch.autograd.grad(fastops.balanced_logistic_loss(leaf, *settings, "sum", centers), leaf)
    return grad


# ---- labels and weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, radius, stride",
    [((17, 17), 16.0, 8.0), ((17, 17), 16, 8), ((5, 8), 1.0, 0.7), ((33, 21), 80.0, 8.0), ((600, 3), 1000.0, 4.0)],
)
def test_labels_and_weights_follow_the_definition(shape, radius, stride, device):
    """For responses of 0 the gradient is -y w / 2. The loss is ln 2, because all weights add up to 1."""
    center = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    responses = torch.zeros(2, 1, *shape, dtype=torch.float64, device=device)
    expected = signed_weights(shape, center, radius, stride) / -2
    for grad in slopes(responses, radius, stride)[:, 0].cpu():
        torch.testing.assert_close(grad, expected, rtol=1e-14, atol=0)
    loss = fastops.balanced_logistic_loss(responses, radius, stride)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-14)


def test_siamfc_has_13_positives(device):
    grad = slopes(torch.zeros(1, 17, 17, device=device), 16.0, 8.0)
    assert (grad < 0).sum() == 13
    assert (grad[0, 8, 6:11] < 0).all() and not (grad[0, 8, [5, 11]] < 0).any()


CENTERS = [(8.0, 8.0), (0.0, 0.0), (2.5, 11.25), (-1.5, 8.0), (16.0, 17.9), (7.9, -0.3), (8.3, 8.6)]


def test_each_map_has_its_own_center(device):
    responses = torch.zeros(len(CENTERS), 1, 17, 17, dtype=torch.float64, device=device)
    grads = slopes(responses, 16.0, 8.0, centers=torch.tensor(CENTERS, device=device))
    for grad, center in zip(grads[:, 0].cpu(), torch.tensor(CENTERS).double().tolist(), strict=True):
        expected = signed_weights((17, 17), center, 16.0, 8.0) / -2
        torch.testing.assert_close(grad, expected, rtol=1e-14, atol=0)


def test_the_middle_is_the_default_center(device):
    responses = torch.randn(3, 2, 9, 12, device=device)
    middle = torch.tensor([[4.0, 5.5]], device=device).expand(6, 2)
    for reduction in ("none", "mean", "sum"):
        expected = fastops.balanced_logistic_loss(responses, reduction=reduction)
        assert torch.equal(fastops.balanced_logistic_loss(responses, reduction=reduction, centers=middle), expected)
    assert torch.equal(slopes(responses, 16.0, 8.0, centers=middle), slopes(responses, 16.0, 8.0))


@pytest.mark.parametrize(
    "center, radius",
    [((-9.0, 8.0), 16.0), ((8.0, 1e30), 16.0), ((-INF, 8.0), 16.0), ((8.0, float("nan")), 16.0), ((8.5, 8.0), 0.0)],
)
def test_a_map_without_positives_has_half_the_mean_over_its_places(center, radius, device):
    responses = torch.randn(1, 17, 17, dtype=torch.float64, device=device)
    centers = torch.tensor([center], device=device)
    loss = fastops.balanced_logistic_loss(responses, radius, centers=centers)
    expected = torch.nn.functional.softplus(responses).mean() / 2
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    expected = torch.sigmoid(responses) / (2 * 17 * 17)
    torch.testing.assert_close(slopes(responses, radius, 8.0, centers=centers), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("radius", [200.0, 1e300])
def test_a_map_without_negatives_has_half_the_mean_over_its_places(radius, device):
    responses = torch.randn(1, 17, 17, dtype=torch.float64, device=device)
    centers = torch.tensor([[8.0, 3.0]], device=device)
    loss = fastops.balanced_logistic_loss(responses, radius, centers=centers)
    torch.testing.assert_close(loss, torch.nn.functional.softplus(-responses).mean() / 2, rtol=1e-13, atol=0)


# ---- tails and sums ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1e3, 3e4, INF])
def test_large_responses(size, dtype, device):
    labels = signed_weights((17, 17), (8.0, 8.0), 16.0, 8.0).sign().to(device, dtype)[None]
    right, wrong = size * labels, -size * labels
    assert fastops.balanced_logistic_loss(right).item() == 0
    assert not slopes(right, 16.0, 8.0).any()
    torch.testing.assert_close(
        fastops.balanced_logistic_loss(wrong), torch.tensor(size, dtype=dtype, device=device), rtol=1e-6, atol=0
    )
    expected = -signed_weights((17, 17), (8.0, 8.0), 16.0, 8.0).to(device, dtype)[None]
    torch.testing.assert_close(slopes(wrong, 16.0, 8.0), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype, largest", [(torch.float32, 80.0), (torch.float64, 700.0)])
@pytest.mark.parametrize("label", [1, -1])
def test_small_losses_keep_their_relative_accuracy(label, dtype, largest, device):
    """ln(1 + e^-v) is e^-v, not 0, for large v."""
    scores = torch.linspace(-3, largest, 200, dtype=dtype, device=device)
    maps = torch.full((200, 1, 3), -INF, dtype=dtype, device=device)
    maps[:, 0, 1] = INF  # the other cells add nothing
    maps[:, 0, 1 if label > 0 else 0] = label * scores
    weight = 0.5 if label > 0 else 0.25
    losses = fastops.balanced_logistic_loss(maps, 0.0, reduction="none").double().cpu() / weight
    grads = slopes(maps, 0.0, 8.0)[:, 0, 1 if label > 0 else 0].double().cpu() / (-label * weight)
    e = [math.exp(-score) for score in scores.tolist()]
    expected = torch.tensor([math.log1p(value) for value in e], dtype=torch.float64)
    expected_grads = torch.tensor([value / (1 + value) for value in e], dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(losses, expected, rtol=4 * eps, atol=0)
    torch.testing.assert_close(grads, expected_grads, rtol=4 * eps, atol=0)


def test_nan_stays_in_its_map(device):
    responses = torch.randn(3, 1, 17, 17, device=device)
    for place in (0, 8 * 17 + 8):
        responses[1].flatten()[place] = float("nan")
        losses = fastops.balanced_logistic_loss(responses, reduction="none")
        assert losses.flatten().isnan().tolist() == [False, True, False]
        grad = slopes(responses, 16.0, 8.0)
        assert grad[1].flatten()[place].isnan() and grad.isnan().sum() == responses.isnan().sum()
    assert fastops.balanced_logistic_loss(responses).isnan()


def test_sums_of_many_places(device):
    """2^20 equal losses: added one by one in float32 they would be off by 1e-3."""
    responses = torch.full((1, 1024, 1024), 0.3, device=device)
    expected = reference.balanced_logistic_loss(responses.double())
    torch.testing.assert_close(fastops.balanced_logistic_loss(responses).double(), expected, rtol=2e-7, atol=0)


# ---- reductions, transforms ----------------------------------------------------------------------------------


def test_reductions(device):
    responses = torch.randn(3, 2, 17, 17, dtype=torch.float64, device=device)
    each = fastops.balanced_logistic_loss(responses, reduction="none")
    assert each.shape == (3, 2)
    torch.testing.assert_close(fastops.balanced_logistic_loss(responses), each.mean(), rtol=1e-14, atol=0)
    torch.testing.assert_close(fastops.balanced_logistic_loss(responses, reduction="sum"), each.sum())
    assert torch.equal(fastops.balanced_logistic_loss(responses[0, 0], reduction="none"), each[0, 0])


def test_no_maps(device):
    empty = torch.zeros(0, 1, 17, 17, device=device, requires_grad=True)
    assert fastops.balanced_logistic_loss(empty).isnan()
    assert fastops.balanced_logistic_loss(empty, reduction="sum").item() == 0
    assert fastops.balanced_logistic_loss(empty, reduction="none").shape == (0, 1)
    (grad,) = torch.autograd.grad(fastops.balanced_logistic_loss(empty), empty)
    assert grad.shape == empty.shape


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("responses_dim, centers_dim", [(0, 0), (1, None), (None, 1)])
def test_vmap_of_reductions(reduction, responses_dim, centers_dim, device):
    def loss(responses, centers):
        return fastops.balanced_logistic_loss(responses, 16.0, 8.0, reduction, centers)

    responses = [torch.randn(4, 1, 9, 11, device=device) for _ in range(3)]
    centers = [torch.rand(4, 2, device=device) * 8 for _ in range(3)]
    if responses_dim is None:
        responses = responses[:1] * 3
    if centers_dim is None:
        centers = centers[:1] * 3
    expected = torch.stack([loss(r, c) for r, c in zip(responses, centers, strict=True)])
    actual = torch.vmap(loss, (responses_dim, centers_dim))(
        responses[0] if responses_dim is None else torch.stack(responses, responses_dim),
        centers[0] if centers_dim is None else torch.stack(centers, centers_dim),
    )
    torch.testing.assert_close(actual, expected)


def test_compiles_with_dynamic_shapes(device):
    torch._dynamo.reset()
    compiled = torch.compile(fastops.balanced_logistic_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 1, 17, 17), (5, 1, 9, 23), (3, 1, 16, 8)):
        responses = torch.randn(shape, device=device)
        assert torch.equal(compiled(responses), fastops.balanced_logistic_loss(responses))


def test_centers_get_no_gradient(device):
    responses = torch.randn(2, 5, 5, device=device, requires_grad=True)
    centers = torch.full((2, 2), 2.0, device=device, requires_grad=True)
    loss = fastops.balanced_logistic_loss(responses, centers=centers)
    grads = torch.autograd.grad(loss, (responses, centers), allow_unused=True)
    assert grads[0].any() and grads[1] is None


# ---- errors --------------------------------------------------------------------------------------------------

x = torch.zeros(2, 1, 17, 17)
centers = torch.zeros(2, 2)
SETTINGS = {"radius": 16.0, "stride": 8.0, "reduction": "mean", "centers": None}
BOTH_LABELS = "radius must leave positives and negatives on a map of"

ERRORS = {
    "dtype": (x.int(), {}, "responses must have dtype float32, float64, float16 or bfloat16, got int32"),
    "dims": (x[0, 0, 0], {}, "responses must have shape [..., H, W] with H and W at least 1, got [17]"),
    "no_rows": (x[..., :0, :], {}, "responses must have shape [..., H, W] with H and W at least 1, got [2, 1, 0, 17]"),
    "no_columns": (x[..., :0], {}, "responses must have shape [..., H, W] with H and W at least 1, got [2, 1, 17, 0]"),
    "radius_negative": (x, {"radius": -0.5}, "radius must be finite and at least 0, got -0.5"),
    "radius_nan": (x, {"radius": float("nan")}, "radius must be finite and at least 0, got nan"),
    "radius_infinite": (x, {"radius": INF}, "radius must be finite and at least 0, got inf"),
    "stride_0": (x, {"stride": 0.0}, "stride must be finite and above 0, got 0"),
    "stride_infinite": (x, {"stride": -INF}, "stride must be finite and above 0, got -inf"),
    "reduction": (x, {"reduction": "max"}, "reduction must be none, mean or sum, got max"),
    "centers_dtype": (x, {"centers": centers.double()}, "centers must have dtype float32, got float64"),
    "centers_device": (
        x,
        {"centers": centers.to("meta")},
        "centers must be on the device of responses (cpu), got meta",
    ),
    "centers_maps": (x, {"centers": torch.zeros(3, 2)}, "centers must have shape [N, 2] = [2, 2], got [3, 2]"),
    "centers_columns": (x, {"centers": torch.zeros(2, 3)}, "centers must have shape [N, 2] = [2, 2], got [2, 3]"),
    "centers_dims": (x, {"centers": torch.zeros(2, 1, 2)}, "centers must have shape [N, 2] = [2, 2], got [2, 1, 2]"),
    "no_positives": (x[..., :16, :16], {"radius": 5.6}, f"{BOTH_LABELS} 16 x 16, got 5.6"),
    "no_positives_in_rows": (x[..., :16, :], {"radius": 3.9}, f"{BOTH_LABELS} 16 x 17, got 3.9"),
    "no_negatives": (x, {"radius": 90.6}, f"{BOTH_LABELS} 17 x 17, got 90.6"),
    "no_negatives_ever": (x[..., :1, :1], {"radius": 0.0}, f"{BOTH_LABELS} 1 x 1, got 0"),
    "no_negatives_large": (x, {"radius": 1234567.0}, f"{BOTH_LABELS} 17 x 17, got 1.23457e+06"),
}


@pytest.mark.parametrize("responses, changed, message", ERRORS.values(), ids=ERRORS)
def test_errors(responses, changed, message, raises_everywhere):
    settings = (SETTINGS | changed).values()
    raises_everywhere(fastops.balanced_logistic_loss, (responses, *settings), f"balanced_logistic_loss: {message}")
    op = "balanced_logistic_loss_backward"
    raises_everywhere(ops.balanced_logistic_loss_backward, (x[0, 0, 0, 0], responses, *settings), f"{op}: {message}")


@pytest.mark.parametrize("size", [5.7, 90.5])
def test_radius_may_just_leave_both_labels(size):
    assert fastops.balanced_logistic_loss(x[..., :16, :16] if size < 8 else x, size).item() > 0


@pytest.mark.parametrize(
    "grad, reduction, message",
    [
        (torch.zeros((), dtype=torch.float64), "mean", "must have the dtype of responses (float32), got float64"),
        (torch.zeros((), device="meta"), "mean", "must be on the device of responses (cpu), got meta"),
        (torch.zeros(1), "sum", "must have the shape of the loss, got [1]"),
        (torch.zeros(2), "none", "must have the shape of the loss, got [2]"),
        (torch.zeros(2, 2), "none", "must have the shape of the loss, got [2, 2]"),
    ],
)
def test_backward_errors(grad, reduction, message, raises_everywhere):
    args = grad, x, 16.0, 8.0, reduction, None
    op = "balanced_logistic_loss_backward"
    raises_everywhere(ops.balanced_logistic_loss_backward, args, f"{op}: grad {message}")
