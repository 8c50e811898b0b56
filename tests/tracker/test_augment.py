"""`augment`: the box follows the target to the pixel, only the generator is random, colours change as documented."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from tracker.data import augment as module
from tracker.data.augment import LUMA, AugmentConfig, Batch, augment, collate
from tracker.data.pairs import Pair, PairDataset

pytestmark = pytest.mark.usefixtures("one_thread")

NONE = AugmentConfig.none()
CENTRED = (103.0, 123.0, 81.0, 41.0)  # its centre is that of a crop of 287 px


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(box=CENTRED, count: int = 16, size: int = 287) -> Pair:
    """Black crops with a white target."""
    image = np.zeros((size, size, 3), np.uint8)
    x, y, w, h = (round(v) for v in box)
    image[y : y + h, x : x + w] = 255
    return collate([Pair(image, image, np.float32(box), np.float32(box))] * count)


def noise(count: int = 4, size: int = 287) -> Pair:
    rng = np.random.default_rng(0)
    box = np.float32(CENTRED)
    return collate([Pair(*rng.integers(60, 190, (2, size, size, 3), dtype=np.uint8), box, box) for _ in range(count)])


def edges_of(crop: torch.Tensor) -> list[float]:
    """x1, y1, x2, y2 of what is white: the grey levels along a line through it add up to its length."""
    levels = crop[0].numpy() / 255
    columns, rows = levels.max(0), levels.max(1)
    spans = []
    for line in (columns, rows):
        at = np.flatnonzero(line > 0)
        first, last = at[0], at[-1]
        spans.append((first + 1 - line[first], last + line[last]))
    (x1, x2), (y1, y2) = spans
    return [x1, y1, x2, y2]


@pytest.fixture(scope="module")
def synthetic() -> Pair:
    pairs = PairDataset.synthetic(0, 4)
    return collate([pairs[i] for i in range(4)])


# ---- geometry ------------------------------------------------------------------------------------------------


def test_nothing_drawn_gives_the_centre_of_the_crops():
    pairs = noise()
    batch = augment(pairs, generator(), NONE)
    assert isinstance(batch, Batch)
    for crop, image, size in ((batch.exemplar, pairs.exemplar, 127), (batch.instance, pairs.search, 255)):
        margin = (287 - size) // 2
        inner = image[:, margin : margin + size, margin : margin + size].permute(0, 3, 1, 2)
        assert torch.equal(crop, inner.float()) and crop.is_contiguous(memory_format=torch.channels_last)
    assert batch.box.dtype == torch.float32 and torch.equal(batch.box, torch.tensor([[87.0, 107, 168, 148]] * 4))


@pytest.mark.parametrize(
    "changes",
    [{"shift": 16.0}, {"stretch": 0.12}, {"stretch": 0.1, "shift": 16.0}],
    ids=["shift", "stretch", "both"],
)
def test_box_follows_the_target(changes):
    batch = augment(drawn(count=64), generator(), replace(NONE, **changes))
    assert len(batch.box.unique(dim=0)) > 30
    for crop, box in zip(batch.instance, batch.box.tolist(), strict=True):
        # Whole pixels move exactly; a stretch blends the pixels at the edges, whose levels place them to 1/4 px.
        assert edges_of(crop) == pytest.approx(box, abs=0.25 if "stretch" in changes else 1e-3)


def test_box_need_not_be_centred_nor_whole():
    pairs = drawn((101.0, 126.0, 81.0, 41.0))
    off = pairs._replace(search_box=pairs.search_box + torch.tensor([0.25, -0.5, 0.0, 1.0]))
    plain, moved = (augment(p, generator(), replace(NONE, shift=9)).box for p in (pairs, off))
    assert torch.allclose(moved - plain, torch.tensor([0.25, -0.5, 0.25, 0.5]))


def test_shift_and_stretch_span_what_is_asked():
    centre = lambda box: (box[:, :2] + box[:, 2:]) / 2 - 127.5  # noqa: E731
    shifted = centre(augment(drawn(count=150), generator(), replace(NONE, shift=16)).box)
    assert shifted.abs().max() == 16 and (shifted.mean(0).abs() < 2).all()
    box = augment(drawn(count=150), generator(), replace(NONE, stretch=0.1)).box
    zoom = (box[:, 2] - box[:, 0]) / 81
    assert zoom.min() == pytest.approx(1 / 1.1, abs=0.01) and zoom.max() == pytest.approx(1 / 0.9, abs=0.01)
    # The more a region is stretched, the less it can shift: it stays inside the crop.
    both = augment(drawn(count=150), generator(), replace(NONE, stretch=0.12, shift=16))
    assert centre(both.box).abs().max() < 18 and both.instance[:, :, :9].max() == 0


def test_exemplar_has_its_own_stretch_and_shift():
    config = replace(NONE, exemplar_stretch=0.2, exemplar_shift=10)
    batch = augment(drawn(), generator(), config)
    assert torch.equal(batch.box, augment(drawn(), generator(), NONE).box)
    spans = torch.tensor([edges_of(crop) for crop in batch.exemplar])
    assert (spans[:, 2] - spans[:, 0]).std() > 3 and (spans[:, 0] + spans[:, 2]).std() > 4


def test_larger_crops_leave_more_room():
    batch = augment(drawn((159.0, 179.0, 81.0, 41.0), size=399), generator(), replace(NONE, shift=64))
    assert (batch.box[:, 0] - 87).abs().max() > 50
    for crop, box in zip(batch.instance, batch.box.tolist(), strict=True):
        assert edges_of(crop) == pytest.approx(box, abs=1e-3)


# ---- random numbers ------------------------------------------------------------------------------------------


def test_generator_decides(synthetic):
    one, again, other = (augment(synthetic, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.instance, other.instance) and not torch.equal(one.box, other.box)


def test_a_step_turned_off_changes_no_other(synthetic):
    full = augment(synthetic, generator(), AugmentConfig(shift=16))
    still = augment(synthetic, generator(), replace(NONE, stretch=0.05, shift=16))
    assert torch.equal(full.box, still.box)


def test_parts_of_a_batch_become_what_the_whole_becomes(synthetic):
    whole = augment(synthetic, generator())
    for part in (slice(0, 2), slice(2, 4)):
        pairs = Pair(*(field[part] for field in synthetic))
        batch = augment(pairs, generator(), part=part, of=4)
        assert all(torch.equal(a, b[part]) for a, b in zip(batch, whole, strict=True))


def test_dtype_and_autocast(synthetic):
    exact = augment(synthetic, generator())
    half = augment(synthetic, generator(), dtype=torch.bfloat16)
    assert half.instance.dtype == torch.bfloat16 and half.box.dtype == torch.float32
    assert torch.equal(half.instance, exact.instance.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        cast = augment(synthetic, generator())
    assert torch.equal(cast.instance, exact.instance)
    assert not exact.instance.requires_grad


def test_without_the_library_the_batch_is_the_same(synthetic, monkeypatch):
    fused = augment(synthetic, generator())
    monkeypatch.setattr(module.fastops, "load_error", "_cpu.so is missing")
    monkeypatch.delattr(module.fastops, "crop_and_resize")
    assert all(torch.equal(a, b) for a, b in zip(augment(synthetic, generator()), fused, strict=True))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_batch(synthetic):
    expected, config = augment(synthetic, generator()), AugmentConfig(blur=0.5)
    got = augment(synthetic, generator(), device="cuda")
    assert torch.equal(got.box.cpu(), expected.box)
    blurred = augment(synthetic, generator(), config, device="cuda"), augment(synthetic, generator(), config)
    for one, other in ((got, expected), blurred):
        assert one.instance.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(one.instance.cpu(), other.instance, atol=1e-2)
        assert torch.allclose(one.exemplar.cpu(), other.exemplar, atol=1e-2)


# ---- colours and blur ----------------------------------------------------------------------------------------


def luma(images: torch.Tensor) -> torch.Tensor:
    return (images * torch.tensor(LUMA)[:, None, None]).sum(-3, keepdim=True)


def test_grey_takes_both_crops_of_a_pair():
    pairs = noise(64)
    batch, plain = augment(pairs, generator(), replace(NONE, grey=0.4)), augment(pairs, generator(), NONE)
    grey = [(crops.amax(1) - crops.amin(1)).amax((1, 2)) < 1e-3 for crops in (batch.exemplar, batch.instance)]
    assert torch.equal(*grey) and 15 < int(grey[0].sum()) < 36
    assert torch.allclose(batch.instance[grey[1]], luma(plain.instance[grey[1]]).expand(-1, 3, -1, -1), atol=1e-3)
    assert torch.equal(batch.instance[~grey[1]], plain.instance[~grey[1]])


def test_brightness_and_colour_are_gains():
    pairs = noise(24)
    plain = augment(pairs, generator(), NONE).instance
    for config, same in ((replace(NONE, brightness=0.1), True), (replace(NONE, colour=0.1), False)):
        ratio = augment(pairs, generator(), config).instance / plain
        gains = ratio.mean((2, 3))
        assert torch.allclose(ratio, gains[:, :, None, None].expand_as(ratio), atol=1e-4)
        assert 0.9 <= gains.min() < 0.93 and 1.07 < gains.max() <= 1.1
        assert bool(torch.allclose(gains[:, 0], gains[:, 1], atol=1e-5)) == same


def test_saturation_keeps_the_grey_level_and_scales_the_distance_from_it():
    pairs = noise(16)
    plain = augment(pairs, generator(), NONE).instance
    changed = augment(pairs, generator(), replace(NONE, saturation=0.2)).instance
    assert torch.allclose(luma(changed), luma(plain), atol=1e-2)
    factors = ((changed - luma(changed)) * (plain - luma(plain))).sum((1, 2, 3)) / (plain - luma(plain)).square().sum(
        (1, 2, 3)
    )
    assert 0.8 <= factors.min() < 0.9 and 1.1 < factors.max() <= 1.2


def test_contrast_scales_the_distance_from_the_mean_grey():
    pairs = noise(16)
    plain = augment(pairs, generator(), NONE).instance
    changed = augment(pairs, generator(), replace(NONE, contrast=0.1)).instance
    factors = changed.std((1, 2, 3)) / plain.std((1, 2, 3))
    assert 0.9 <= factors.min() < 0.94 and 1.06 < factors.max() <= 1.1001
    assert torch.allclose(luma(changed).mean((1, 2, 3)), luma(plain).mean((1, 2, 3)), atol=1)  # of every 64th pixel


def test_levels_stay_within_0_and_255(synthetic):
    config = replace(NONE, brightness=0.5, contrast=0.5, saturation=1.0, colour=0.5)
    batch = augment(synthetic, generator(), config)
    assert batch.instance.min() == 0 and batch.instance.max() == 255


def test_blur_of_a_point_is_a_gaussian():
    image = np.zeros((287, 287, 3), np.uint8)
    image[143, 143] = 250
    box = np.float32(CENTRED)
    batch = augment(collate([Pair(image, image, box, box)] * 64), generator(), replace(NONE, blur=1.0))
    points = batch.instance[:, 1, 125:130, 125:130] / 250
    assert torch.allclose(points.sum((1, 2)), torch.ones(64), atol=1e-5)
    assert torch.allclose(points, points.transpose(1, 2), atol=1e-6)
    assert torch.allclose(points, points.flip(1), atol=1e-6)
    deviation = (0.5 / (points[:, 2, 2] / points[:, 2, 1]).log()).sqrt()
    assert 0.5 <= deviation.min() < 0.55 and 1.1 < deviation.max() <= 1.2


def test_blur_keeps_flat_crops_and_takes_the_share_asked():
    pairs, config = noise(64), replace(NONE, blur=0.3)
    batch, plain = augment(pairs, generator(), config), augment(pairs, generator(), NONE)
    same = (batch.instance == plain.instance).flatten(1).all(1)
    assert 32 < int(same.sum()) < 57
    assert not torch.equal((batch.exemplar == plain.exemplar).flatten(1).all(1), same)  # each crop by itself
    flat = Pair(torch.full_like(pairs.exemplar, 77), torch.full_like(pairs.search, 77), *pairs[2:])
    assert torch.allclose(augment(flat, generator(), config).instance, torch.tensor(77.0), atol=1e-4)


# ---- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [field.name for field in fields(AugmentConfig)])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_config_is_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be (between 0 and 1|at least 0 and finite), got"):
        AugmentConfig(**{name: value})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shift": 16.5}, r"shift must be at most 16 px in crops of 287 px, got 16.5"),
        ({"stretch": 0.13}, r"stretch must keep 255 px within crops of 287 px, got 0.13"),
        ({"exemplar_shift": 81}, r"exemplar_shift must be at most 80 px in crops of 287 px, got 81"),
    ],
)
def test_crops_must_have_room(config, message):
    with pytest.raises(ValueError, match=message):
        augment(drawn(count=1), generator(), replace(NONE, **config))


def test_generator_must_be_on_the_cpu(synthetic, monkeypatch):
    elsewhere = type("Generator", (), {"device": torch.device("cuda", 0)})()
    with pytest.raises(ValueError, match="generator must be on the CPU, got one on cuda:0"):
        augment(synthetic, elsewhere)
