"""The weights in the package: they load by name and by default, and they track well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.paths import DATA
from tracker import BatchTracker, SiamFC, Tracker
from tracker.data.datasets import open_place
from tracker.data.synthetic import SyntheticVideo
from tracker.eval.metrics import iou
from tracker.network.checkpoint import load_model, load_state
from tracker.network.pretrained import DEFAULT, PRETRAINED, find_weights
from tracker.training.config import ValidationConfig, load_config
from tracker.training.validation import validate, validation_sequences

CARD = find_weights().with_name("README.md")
HELD_OUT = ("Crossing", "Deer", "Girl", "MountainBike")  # the model card says that no network was trained on them


@pytest.mark.parametrize("name", PRETRAINED)
def test_files_are_small_and_in_half_precision(name):
    path = find_weights(name)
    assert path.stat().st_size <= 6e6
    dtypes = {key: value.dtype for key, value in load_state(path).items() if "num_batches" not in key}
    assert {dtype for key, dtype in dtypes.items() if "running" not in key} == {torch.float16}
    card = CARD.read_text(encoding="utf-8")
    assert name in card and "@" not in card


VARIANTS = {
    "siamfc-relu": ("relu", "none", "xcorr", 1.0),
    "siamfc-mish-se": ("mish", "se", "xcorr", 1.0),
    "siamfc-box": ("mish", "se", "box", 1.0),
    "siamfc-box-small": ("mish", "se", "box", 0.35),
}


def test_names_are_the_variants():
    assert list(PRETRAINED) == list(VARIANTS)
    for name, variant in VARIANTS.items():
        assert (
            load_model(find_weights(name), ops="reference").settings() == SiamFC(*variant, ops="reference").settings()
        )


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_settings_of_their_training_are_told(name):
    config = load_config(CARD.with_name(f"{name}.toml"))
    model = config.model
    assert (model.activation, model.attention, model.head, model.width) == VARIANTS[name]
    assert f"{name}.toml" in CARD.read_text(encoding="utf-8")


def test_default_and_other_paths():
    assert find_weights() == find_weights(None) == find_weights(DEFAULT)
    assert find_weights("runs/model.safetensors") == Path("runs/model.safetensors")
    relu = Tracker.from_pretrained("siamfc-relu", backend="eager")
    assert relu.network.model.activation == "relu" and relu.network.dtype == torch.float32
    assert Tracker.from_pretrained(backend="eager").network.model.activation == "mish"
    with pytest.raises(FileNotFoundError, match="path must be an existing file, got siamfc-tanh"):
        Tracker.from_pretrained("siamfc-tanh")


def test_they_track_in_batches_too():
    video = SyntheticVideo(5, 30, (320, 240), occlusions=0)
    tracker = BatchTracker.from_pretrained()
    target = tracker.add(video.image(0), video.boxes[0])
    boxes = [tracker.update(video.image(index))[target].box for index in range(1, len(video))]
    assert iou(np.array(boxes), video.boxes[1:]).mean() > 0.7


@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize(
    ("name", "least"), [("siamfc-relu", 0.65), ("siamfc-mish-se", 0.7), ("siamfc-box", 0.65), ("siamfc-box-small", 0.6)]
)
def test_they_track_real_sequences_that_they_never_saw(name, least):
    place = f"otb:{DATA / 'sequences'}"
    assert set(HELD_OUT) <= {sequence.name for sequence in open_place(place)}
    assert all(sequence in CARD.read_text(encoding="utf-8") for sequence in HELD_OUT)
    config = ValidationConfig(synthetic=0, frames=80, sequences=(place,), only=HELD_OUT)
    scores = validate(load_model(find_weights(name)), validation_sequences(config))
    assert np.mean(list(scores.values())) > least, scores
