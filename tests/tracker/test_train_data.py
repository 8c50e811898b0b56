"""The order of training pairs, and the loader that follows it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from tracker.data.datasets import open_place
from tracker.data.pairs import PairDataset
from tracker.data.prepare import prepare_archive
from tracker.distributed import World
from tracker.training.batches import BatchOrder, make_loader, open_pairs, seed_of
from tracker.training.config import DataConfig, TrainConfig


def batches(steps: range, world: World | None = None, seed: int = 0, **options) -> list[list[tuple[int, int]]]:
    return list(BatchOrder(10, 4, seed, steps, world, **options))


def test_every_epoch_takes_each_pair_once_at_most():
    for first in (0, 2):
        keys = [key for batch in batches(range(first, first + 2)) for key in batch]
        assert {epoch for epoch, _ in keys} == {first // 2}
        assert len({index for _, index in keys}) == 8


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [batches(range(2)), batches(range(2, 4)), batches(range(2), seed=1)]
    indices = [[index for batch in order for _, index in batch] for order in orders]
    assert indices[0] != indices[1] and indices[0] != indices[2]


def test_any_step_may_come_first():
    assert batches(range(7))[3:] == batches(range(3, 7))


def test_processes_share_each_batch():
    whole = batches(range(5))
    parts = [batches(range(5), World(rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_first_batch_again_and_again():
    assert batches(range(3, 9), repeat_first=True) == batches(range(1)) * 6


def test_order_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="pairs must fill a batch of 8, got 7 per epoch"):
        BatchOrder(7, 8, 0, range(1))
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 processes, got 8"):
        BatchOrder(9, 8, 0, range(1), World(0, 3))


def test_seeds_differ_in_every_number():
    seeds = {seed_of(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500 and max(seeds) < 2**63
    torch.Generator().manual_seed(max(seeds))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_reads_the_pairs_of_their_epochs_in_order(workers):
    pairs = PairDataset.synthetic(seed=3, pairs=3, crop_size=255)
    order = BatchOrder(3, 2, 0, range(3))
    loaded = list(make_loader(pairs, order, workers, torch.device("cpu")))
    assert [[(item.epoch, index) for index in item.indices] for item in loaded] == list(order)
    assert [item.epoch for item in loaded] == [0, 1, 2]
    last = loaded[2]
    pairs.set_epoch(2)
    for row, index in enumerate(last.indices):
        assert (last.pairs.search[row].numpy() == pairs[index].search).all()
        assert (last.pairs.exemplar_box[row].numpy() == pairs[index].exemplar_box).all()


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(
        ValueError, match="one of data.synthetic, data.stills, data.archives and data.sequences must give pairs"
    ):
        open_pairs(TrainConfig(data=DataConfig(synthetic=0)))


@pytest.fixture
def videos(tmp_path) -> str:
    """A folder of three sequences, as "layout:root"."""
    for name in ("Car", "Deer", "Dog"):
        (tmp_path / name / "img").mkdir(parents=True)
        for index in (1, 2):
            image = np.random.default_rng(index).integers(0, 256, (64, 96, 3), np.uint8)
            cv2.imwrite(str(tmp_path / name / "img" / f"{index:04d}.png"), image)
        (tmp_path / name / "groundtruth_rect.txt").write_text("30,20,24,16\n31,21,24,16\n")
    return f"otb:{tmp_path}"


def test_pairs_of_all_places_together(videos):
    data = DataConfig(synthetic=5, sequences=(videos,), leave_out=("Deer",), repeat=3)
    pairs = open_pairs(TrainConfig(seed=4, data=data), held=["Deer", "synthetic-0"])
    assert len(pairs) == 5 + 2 * 3 and pairs.seed == 4
    assert open_pairs(TrainConfig(data=data)).pair(0, 0).search.shape == (287, 287, 3)


def test_archives_leave_the_same_sequences_out(videos, tmp_path):
    path = str(tmp_path / "all.crops")
    prepare_archive(open_place(videos), path)
    data = DataConfig(synthetic=0, archives=(path,), sequences=(videos,), leave_out=("Deer",))
    assert len(open_pairs(TrainConfig(data=data), held=["Deer"])) == 2 + 2
    with pytest.raises(ValueError, match="got none of Deer$"):
        open_pairs(TrainConfig(data=DataConfig(synthetic=0, archives=(path,))), held=["Deer"])


def test_crops_have_one_size(videos, tmp_path):
    path = str(tmp_path / "all.crops")
    prepare_archive(open_place(videos), path, crop_size=300)
    data = DataConfig(synthetic=2, archives=(path,), sequences=(videos,), crop_size=300)
    pairs = open_pairs(TrainConfig(data=data))
    assert {pairs.pair(0, index).search.shape for index in range(len(pairs))} == {(300, 300, 3)}
    with pytest.raises(ValueError, match="data.crop_size must be that of the archive .*all.crops, 300, got 287"):
        open_pairs(TrainConfig(data=DataConfig(archives=(path,))))


def test_pictures_are_what_the_synthetic_videos_show(tmp_path):
    cv2.imwrite(str(tmp_path / "scene.png"), np.full((300, 400, 3), (30, 20, 10), np.uint8))
    data = DataConfig(synthetic=4, pictures=(str(tmp_path),))
    pairs = open_pairs(TrainConfig(data=data))
    plain = open_pairs(TrainConfig(data=DataConfig(synthetic=4)))
    assert any(not np.array_equal(pairs[i].search, plain[i].search) for i in range(4))


def test_sequences_of_the_validation_are_not_trained_on(videos):
    config = TrainConfig(data=DataConfig(sequences=(videos,), leave_out=("Dog",)))
    with pytest.raises(ValueError, match="the sequences of the validation that are .*, got none of Car, Deer$"):
        open_pairs(config, held=["Car", "Dog", "Deer"])
    with pytest.raises(ValueError, match="data.leave_out must name sequences, got Cat$"):
        open_pairs(TrainConfig(data=DataConfig(sequences=(videos,), leave_out=("Dog", "Cat"))))
