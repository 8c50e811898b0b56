"""The box head: what it is trained on, its losses, and tracking with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import fastops
from tracker import BatchTracker, SiamFC, Tracker, TrackerConfig
from tracker.config import box_settings
from tracker.engines.reference import ReferenceTracker
from tracker.engines.target import Start
from tracker.eval.metrics import iou
from tracker.network.box_head import BoxOutput, boxes_of, distances
from tracker.network.checkpoint import load_model, save_state
from tracker.network.export import export_branches
from tracker.network.fused import FusedNetwork
from tracker.network.model import depthwise_xcorr
from tracker.training.losses import BOX_LOSSES, FUSED_BOX_LOSSES, assign, box_head_loss

pytestmark = pytest.mark.usefixtures("one_thread")
CELLS = 8 * (torch.arange(17.0) - 8)


def box_net(activation: str = "mish", ops: str = "reference", seed: int = 0) -> SiamFC:
    torch.manual_seed(seed)
    return SiamFC(activation, "se", "box", 0.25, ops=ops)


def perfect_output(boxes: torch.Tensor) -> BoxOutput:
    """What a network that knows the boxes [N, 4] of the instance crop would give."""
    x1, y1, x2, y2 = (boxes - 127.5)[:, :, None, None].unbind(1)
    x, y = CELLS.expand(17, 17), CELLS[:, None].expand(17, 17)
    ltrb = torch.stack([x - x1, y - y1, x2 - x, y2 - y], 1)
    near = torch.hypot(x - (x1 + x2) / 2, y - (y1 + y2) / 2) <= 16
    return BoxOutput(torch.where(near, 20.0, -20.0)[:, None], ltrb.clamp(min=0.01))


# ---- network and loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "mish"])
def test_both_ops_agree(activation):
    outputs, gradients = [], []
    z, x = 255 * torch.rand(2, 3, 127, 127), 255 * torch.rand(4, 3, 255, 255)
    boxes = torch.tensor([[95.0, 80, 160, 170]]).repeat(4, 1)
    state = box_net(activation).state_dict()
    for ops in ("fastops", "reference"):
        net = box_net(activation, ops)
        net.load_state_dict(state, strict=True)
        output = net(z, x)
        assert output.score.shape == (4, 1, 17, 17) and output.ltrb.shape == (4, 4, 17, 17)
        assert (output.ltrb > 0).all()
        sum(box_head_loss(output, boxes).values()).backward()
        outputs.append(torch.cat(output, 1).detach())
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    for a, b in (outputs, gradients):
        assert (a - b).norm() < 1e-4 * b.norm()


def test_the_score_map_head_has_no_new_keys():
    assert not [key for key in SiamFC(width=0.25).state_dict() if "box" in key]
    extra = box_net().state_dict().keys() - SiamFC("mish", "se", width=0.25).state_dict().keys()
    assert extra and all(key.startswith("box_head.") for key in extra)


def test_depthwise_xcorr_pairs_each_template_with_its_searches():
    z, x = torch.randn(2, 3, 4, 5), torch.randn(6, 3, 9, 8)
    torch.testing.assert_close(depthwise_xcorr(z, x), fastops.reference.xcorr_depthwise(z, x))
    with pytest.raises(ValueError, match=r"x must be \[k\*2, 3, H, W\], got \(5, 3, 9, 8\)"):
        depthwise_xcorr(z, x[:5])


def test_cells_are_assigned_by_hand():
    box = torch.tensor([[-20.0, -4, 12, 12]])  # x from -20 to 12 holds columns -16, -8, 0, 8; y rows 0, 8
    centers, inside = assign(box, (17, 17))
    assert centers.tolist() == [[8.5, 7.5]]
    assert inside[0].nonzero().tolist() == [[row, column] for row in (8, 9) for column in (6, 7, 8, 9)]
    assert torch.equal(boxes_of(torch.ones(1, 4, 17, 17))[0, 9, 7], torch.tensor([-9.0, 7, -7, 9]))
    large = torch.tensor([[-60.0, -60, 60, 60]])  # of the cells in it, those 16 pixels or less from its centre
    _, inside = assign(large, (17, 17))
    assert inside.sum() == 13 and inside[0, 8, 6] and not inside[0, 7, 6]


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_loss_is_least_at_the_truth_and_leads_to_it(kind):
    boxes = torch.tensor([[90.0, 100, 150, 140], [100, 60, 140, 200]])
    perfect = perfect_output(boxes)
    parts = box_head_loss(perfect, boxes, kind)
    assert sum(parts.values()) < 1e-4
    ltrb = torch.full((2, 4, 17, 17), 32.0, requires_grad=True)
    optimizer = torch.optim.Adam([ltrb], lr=1.0)
    for _ in range(150 if kind in FUSED_BOX_LOSSES else 400):  # the baselines are slower, FocalL1 the slowest
        optimizer.zero_grad()
        loss = box_head_loss(BoxOutput(perfect.score, ltrb), boxes, kind)["box"]
        loss.backward()
        optimizer.step()
    _, inside = assign(boxes - 127.5, (17, 17))
    found = boxes_of(ltrb.detach())[inside] + 127.5
    truth = boxes[:, None, None].expand(2, 17, 17, 4)[inside]
    assert (1 - fastops.iou_loss(found, truth, reduction="none")).min() > 0.9
    assert torch.equal(ltrb.detach()[:, 0][~inside], torch.full_like(ltrb.detach()[:, 0][~inside], 32.0))


def test_loss_by_hand():
    boxes = torch.tensor([[95.5, 95.5, 159.5, 159.5]])  # 64 x 64 around the middle
    ltrb = torch.full((1, 4, 17, 17), 16.0)
    _, inside = assign(boxes - 127.5, (17, 17))
    output, pred = BoxOutput(torch.zeros(1, 1, 17, 17), ltrb), boxes_of(ltrb)[inside]
    truth = (boxes - 127.5).expand_as(pred)
    for kind in ("iou", "giou", "ciou", "eiou"):
        expected = getattr(fastops, f"{kind}_loss")(pred, truth)
        torch.testing.assert_close(box_head_loss(output, boxes, kind)["box"], expected)
    parts = box_head_loss(output, boxes)
    torch.testing.assert_close(parts["box"], fastops.focal_eiou_loss(pred, truth, reduction="weighted"))
    assert float(parts["score"]) == pytest.approx(np.log(2))


def test_a_target_off_the_map_gives_finite_losses():
    output = BoxOutput(torch.zeros(1, 1, 17, 17), torch.full((1, 4, 17, 17), 32.0, requires_grad=True))
    parts = box_head_loss(output, torch.tensor([[400.0, 400, 450, 450]]))
    sum(parts.values()).backward()
    assert float(parts["box"].detach()) == 0 and not output.ltrb.grad.any()


def test_bad_arguments():
    output = perfect_output(torch.tensor([[90.0, 100, 150, 140]]))
    with pytest.raises(ValueError, match="kind must be one of focal_eiou, .*, focal_eiou_star, got 'l1'"):
        box_head_loss(output, torch.zeros(1, 4), "l1")
    with pytest.raises(ValueError, match=r"boxes must be \[1, 4\], got \[2, 4\]"):
        box_head_loss(output, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="model must have the score-map head, got head 'box'"):
        export_branches(box_net())
    with pytest.raises(ValueError, match="model must have head=.xcorr., got 'box'"):
        ReferenceTracker(box_net())


def test_saved_box_network_comes_back(tmp_path):
    net = box_net().eval()
    save_state(net, tmp_path / "net.safetensors")
    torch.save(net.state_dict(), tmp_path / "net.pth")  # no settings: the keys tell
    z, x = 255 * torch.rand(1, 3, 127, 127), 255 * torch.rand(1, 3, 255, 255)
    for name in ("net.safetensors", "net.pth"):
        loaded = load_model(tmp_path / name, activation="mish", ops="reference")
        assert loaded.settings() == net.settings() or name == "net.pth"
        assert loaded.head == "box"
        with torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(net(z, x), loaded(z, x), strict=True))


# ---- tracking ------------------------------------------------------------------------------------------------


def box_update(maps: torch.Tensor, state: torch.Tensor, config: TrackerConfig) -> torch.Tensor:
    """One frame after the network, from its maps [K, 5, 17, 17], score and l, t, r, b."""
    return fastops.box_peak(maps[:, :1], maps[:, 1:], state, **box_settings(config))


def scripted(box, state: torch.Tensor) -> torch.Tensor:
    """Maps of a network that knows the next `box`, x, y, w, h in the image, for the crop that `state` asks for."""
    x, y, side = state[0, [0, 1, 4]].tolist()
    side = round(side)
    left, top = (round(c - (side - 1) / 2) for c in (x, y))
    x1, y1, w, h = ((v - corner) * 255 / side for v, corner in zip(box, (left, top, 0, 0), strict=True))
    return torch.cat(perfect_output(torch.tensor([[x1, y1, x1 + w, y1 + h]])), 1)


def start(box, **config) -> tuple[torch.Tensor, TrackerConfig]:
    config = TrackerConfig(**config)
    state = torch.tensor([Start.of(np.zeros((240, 320, 3), np.uint8), box, config).row()])
    box_update(scripted(box, state), state, config)
    return state, config


def follow(state, config, box) -> np.ndarray:
    return box_update(scripted(box, state), state, config)[0].numpy()


def test_a_known_box_is_followed_exactly():
    state, config = start((100, 80, 60, 40), box_lr=1.0, box_penalty=0.0, box_window=0.0)
    for box in [(104, 78, 50, 50), (110.5, 79.25, 40, 62), (111, 80, 70, 31)]:
        result = follow(state, config, box)
        np.testing.assert_allclose(result[:4], box, atol=2e-3)
        assert result[4] > 0.98 and result[5] == 0
        x, y, w, h, search = state[0, :5].tolist()
        np.testing.assert_allclose([x - (w - 1) / 2, y - (h - 1) / 2], box[:2], atol=2e-3)
        context = (w + h) / 2
        assert search == pytest.approx(((w + context) * (h + context)) ** 0.5 * 255 / 127, rel=1e-5)


def test_size_moves_by_the_learning_rate_and_the_penalty():
    state, config = start((100, 80, 60, 40), box_lr=0.5, box_penalty=0.0, box_window=0.0)
    np.testing.assert_allclose(follow(state, config, (100, 80, 70, 40))[2:4], [65, 40], atol=1e-3)
    state, config = start((100, 80, 60, 40), box_lr=0.5, box_penalty=0.7, box_window=0.0)
    size = np.sqrt((70 + 55) * (40 + 55)) / np.sqrt((60 + 50) * (40 + 50))
    rate = 0.5 * np.exp(-0.7 * (size * (70 / 40) / (60 / 40) - 1))
    np.testing.assert_allclose(follow(state, config, (100, 80, 70, 40))[2:4], [60 + 10 * rate, 40], atol=1e-3)


def test_the_window_prefers_the_middle():
    state, config = start((100, 80, 60, 40), box_window=0.9, box_penalty=0.0)
    box = torch.tensor([[95.5, 95.5, 159.5, 159.5]])
    maps = torch.cat(perfect_output(box), 1)
    maps[:, 0] = 0.0
    maps[0, 0, 3, 3] = maps[0, 0, 8, 9] = 5.0  # equal scores
    maps[0, 1:, 3, 3] = torch.tensor([10.0, 10, 50, 50])
    result = box_update(maps, state, config)
    np.testing.assert_allclose(result[0, :2] + (result[0, 2:4] - 1) / 2, [129.5, 99.5], atol=1.0)


def test_limits_hold():
    state, config = start((100, 80, 60, 40), box_lr=1.0, box_penalty=0.0, box_window=0.0)
    maps = torch.full((1, 5, 17, 17), 1e4)
    result = box_update(maps, state, config)[0]
    assert result[2] == 640 and result[3] == 480
    for _ in range(40):
        maps = torch.full((1, 5, 17, 17), 1e-3)
        maps[0, 0, 0, 0] = 20.0
        maps[0, 0, 1:] = -20.0
        result = box_update(maps, state, config)[0]
        assert result[2:4].min() >= 4
    np.testing.assert_allclose(state[0, :2], [0, 0], atol=1e-3)


def test_score_and_lost():
    state, config = start((100, 80, 60, 40), lost_frames=2)
    contrasts = [1.0, 0.3, 0.3, 0.3, 1.0]
    flags = []
    for share in contrasts:
        maps = scripted((100, 80, 60, 40), state)
        maps[:, 0] *= share
        result = box_update(maps, state, config)[0]
        flags.append((round(float(result[4]), 2), float(result[5])))
    assert [f[1] for f in flags] == [0, 0, 1, 1, 0]
    assert [f[0] for f in flags] == pytest.approx(contrasts, abs=0.1)


def test_a_map_that_is_not_finite_leaves_the_target():
    state, config = start((100, 80, 60, 40))
    state = state.repeat(2, 1)
    before = state.clone()
    maps = torch.cat(perfect_output(torch.tensor([[95.5, 95.5, 159.5, 159.5]])), 1).repeat(2, 1, 1, 1)
    maps[0, 2, 5, 5] = float("nan")
    result = box_update(maps, state, config)
    assert result[0, :5].isnan().all() and result[0, 5] == 1 and result[1].isfinite().all()
    assert torch.equal(state[0], before[0]) and not torch.equal(state[1], before[1])


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (120, 160, 3), np.uint8)


@pytest.mark.parametrize("activation", ["relu", "mish"])
def test_all_trackers_give_the_same_boxes(activation):
    net = box_net(activation)
    z, x = 255 * torch.rand(2, 3, 127, 127), 255 * torch.rand(2, 3, 255, 255)
    with torch.no_grad():  # statistics and outputs that matter
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        net.box_head.box[-1].weight.normal_(std=0.1)
        net.box_head.score_offset.fill_(2.0)  # sure enough to follow
        net.train()(z, x)
    net.eval()
    fast = SiamFC(**net.settings())
    fast.load_state_dict(net.state_dict())
    frames = [np.roll(noise(), 3 * i, axis=1) for i in range(6)]
    boxes = [(60, 40, 30, 20), (20, 30, 18, 50)]
    batch = BatchTracker(fast)
    targets = [batch.add(frames[0], box) for box in boxes]
    together = [batch.update(frame) for frame in frames[1:]]
    for target, box in zip(targets, boxes, strict=True):
        results = []
        for tracker in (Tracker(net, backend="eager"), Tracker(fast)):
            tracker.init(frames[0], box)
            results.append(np.array([tracker.update(frame).box for frame in frames[1:]]))
        assert iou(*results).min() > 0.95
        assert np.array_equal(results[1], [r[target].box for r in together])
        assert np.ptp(results[0][:, 2] / results[0][:, 3]) > 0.01


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-12)])
def test_fused_maps_are_the_models(dtype, tolerance):
    net = box_net().eval()
    fused = FusedNetwork(net, dtype=dtype)
    z, x = (torch.randint(0, 256, (1, 3, side, side)).to(dtype) for side in (127, 255))
    with torch.no_grad():
        exact = torch.cat(net.double()(z.double(), x.double()), 1)
        maps = fused.scores(fused.features(z), fused.features(x))
        outputs = fused.outputs(fused.features(z), fused.features(x))
    assert maps.shape == (1, 5, 17, 17) and maps.dtype == dtype
    assert torch.equal(maps, torch.cat([outputs[0], distances(outputs[1])], 1))
    assert (maps - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("backend", ["fastops", "eager"])
def test_nan_stops_the_tracker(backend):
    net = box_net(ops="fastops" if backend == "fastops" else "reference")
    with torch.no_grad():
        net.box_head.score_offset.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the network's response must be finite, got NaN or infinity"):
        Tracker(net, backend=backend).init(noise(), (60, 40, 30, 20))


def test_maps_must_fit_the_config():
    config = TrackerConfig(instance_size=271, response_size=17 + 2)
    tracker = Tracker(box_net(), backend="eager", config=config)
    tracker.init(noise(), (60, 40, 30, 20))  # the network takes any size
    assert np.isfinite(tracker.update(noise()).box).all()
    tracker.network.responses = lambda crops: np.zeros((1, 17, 17), np.float32)
    with pytest.raises(ValueError, match=r"network must give maps \[1, 5, 19, 19\], got \[1, 17, 17\]"):
        tracker.update(noise())


@pytest.mark.parametrize("name", ["box_lr", "box_window"])
def test_config_is_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be between 0 and 1, got 2"):
        replace(TrackerConfig(), **{name: 2})
