"""Settings of training: unknown keys, types, ranges, and files that read back as they were written."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tracker.data.augment import AugmentConfig
from tracker.training.config import DataConfig, ModelConfig, TrainConfig, ValidationConfig, load_config, to_toml


def test_defaults_are_those_of_the_paper():
    config = load_config()
    assert config == TrainConfig()
    assert (config.lr, config.final_lr, config.momentum, config.weight_decay) == (1e-2, 1e-4, 0.9, 5e-4)
    assert (config.batch_size, config.epochs, config.optimizer) == (8, 50, "sgd_gc")


def test_settings_replace_those_of_the_file(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text('lr = 1\nbatch_size = 4\n[model]\nactivation = "relu"\nwidth = 0.5\n[augment]\nblur = 0\n')
    config = load_config(path, ["model.width=0.25", "model.attention=none", 'data.archives=["a b.pairs", "c"]', "lr=3"])
    assert config == TrainConfig(
        lr=3.0,
        batch_size=4,
        model=ModelConfig(activation="relu", attention="none", width=0.25),
        data=DataConfig(archives=("a b.pairs", "c")),
        augment=AugmentConfig(blur=0.0),
    )
    assert type(config.lr) is float and type(config.augment.blur) is float


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lrr=1", "unknown setting lrr: did you mean lr?"),
        ("model.widht=1", "unknown setting model.widht: did you mean model.width?"),
        ("modle.width=1", "unknown setting modle: did you mean model?"),
        ("lr=fast", "lr must be of type float, got 'fast'"),
        ("batch_size=2.5", "batch_size must be of type int, got 2.5"),
        ("batch_size=true", "batch_size must be of type int, got True"),
        ("compile=1", "compile must be of type bool, got 1"),
        ("data.archives=a", "data.archives must be of type tuple[str, ...], got 'a'"),
        ("data.archives=[1]", "data.archives must be of type str, got 1"),
        ("model=1", "model must be a table, got 1"),
        ("lr.x=1", "lr must be of type float, got {'x': 1}"),
        ("lr", "a setting must be key=value, got 'lr'"),
        ("lr=0", "lr must be positive and finite, got 0.0"),
        ("lr=inf", "lr must be positive and finite, got inf"),
        ("momentum=-1", "momentum must be at least 0 and finite, got -1.0"),
        ("optimizer=lion", "optimizer must be one of sgd_gc, sgd_gcc, adamw_gc, adamw_gcc, sgd, adamw, got 'lion'"),
        ("precision=int8", "precision must be one of float32, bfloat16, float16, got 'int8'"),
        ("data.workers=-1", "workers must be at least 0, got -1"),
        ("data.crop_size=254", "crop_size must be at least 255, got 254"),
        ("data.repeat=0", "repeat must be at least 1, got 0"),
        ("validation.frames=1", "frames must be at least 2, got 1"),
        ("model.response_deviation=-1", "response_deviation must be at least 0, got -1.0"),
        ("augment.blur=2", "blur must be between 0 and 1, got 2.0"),
    ],
)
def test_mistakes_are_named(setting, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load_config(settings=[setting])


def test_a_box_head_has_defaults_of_its_own(tmp_path):
    config = load_config(settings=["model.head=box", "augment.shift=20"])
    assert config.data.crop_size == 383 and config.augment == AugmentConfig(stretch=0.25, shift=20.0)
    assert load_config(settings=["model.head=xcorr"]) == TrainConfig()
    path = tmp_path / "train.toml"
    path.write_text(to_toml(config))
    assert load_config(path) == config
    with pytest.raises(ValueError, match="augment must be a table, got 3"):
        load_config(settings=["model.head=box", "augment=3"])


def test_a_table_within_a_value_is_refused(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text("lr = 1\n")
    with pytest.raises(ValueError, match="lr must be a table to hold lr.x, got 1"):
        load_config(path, ["lr.x=1"])


def test_a_file_that_is_no_toml(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text("lr = \n")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} must be TOML, got Invalid value"):
        load_config(path)


def test_written_settings_read_back_equal(tmp_path):
    config = TrainConfig(
        lr=0.1 + 0.2,
        final_lr=1e-05,
        compile=True,
        model=ModelConfig(weights='a "b"\\c\n.pth'),
        data=DataConfig(sequences=("otb:/a", "got10k:C:\\b:train"), leave_out=("Deer",)),
        validation=ValidationConfig(every=7, only=("Deer",)),
        augment=replace(AugmentConfig(), grey=0.25),
    )
    path = tmp_path / "train.toml"
    path.write_text(to_toml(config))
    assert load_config(path) == config


def test_learning_rate_falls_exponentially():
    config = TrainConfig(lr=1e-2, final_lr=1e-4)
    assert [config.lr_at(step, 3) for step in (1, 2, 3)] == pytest.approx([1e-2, 1e-3, 1e-4])
    assert config.lr_at(1, 1) == 1e-2
    assert {replace(config, overfit=True).lr_at(step, 9) for step in range(1, 10)} == {1e-2}


def test_steps_are_those_of_whole_batches_unless_given():
    assert TrainConfig(epochs=3, batch_size=8).total_steps(pairs=23) == 6
    assert TrainConfig(epochs=3, steps=10).total_steps(pairs=23) == 10
