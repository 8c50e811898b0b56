"""Zhang and Wang: the effect of Mish, channel attention and gradient centralization on SiamFC, all else equal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from tracker.data.archive import CropArchive
from tracker.data.augment import check_room
from tracker.data.datasets import open_place
from tracker.data.pairs import PairDataset
from tracker.data.sequence import Sequence as Video
from tracker.eval.protocols import score
from tracker.eval.runner import Job
from tracker.experiments.report import Row, draw_bars, in_words, write_report
from tracker.experiments.runs import Experiment, Where
from tracker.network.model import SiamFC
from tracker.tracker import Tracker
from tracker.training.batches import open_pairs
from tracker.training.config import DataConfig, ModelConfig, TrainConfig, ValidationConfig
from tracker.training.loop import remove_se_bias, scale_responses, train
from tracker.training.validation import validation_sequences

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Variant -> activation, attention and optimizer.
VARIANTS = {
    "ReLU": ("relu", "none", "sgd"),
    "+ Mish": ("mish", "none", "sgd"),
    "+ SE": ("relu", "se", "sgd"),
    "+ GC": ("relu", "none", "sgd_gcc"),
    "all": ("mish", "se", "sgd_gcc"),
}
#: The columns of each protocol. The first one is the main measure.
MEASURES = {
    "otb": ("success", "precision", "success_rate", "fps"),
    "lasot": ("success", "precision", "success_rate", "fps"),
    "folder": ("success", "precision", "success_rate", "fps"),
    "got10k": ("ao", "sr_50", "sr_75", "fps"),
    "vot": ("accuracy", "robustness", "eao", "fps"),
}
#: Tables 1 and 2 of the paper: our column, their column, their values. SiamFC is our "ReLU", their tracker our "all".
PAPER = {
    "otb": {
        "success": ("success_score", 0.581, 0.602),
        "precision": ("precision_score", 0.783, 0.796),
        "success_rate": ("success_rate", 0.728, 0.750),
        "fps": ("speed_fps", 143, 76),
    },
    "vot": {
        "accuracy": ("accuracy", 0.489, 0.511),
        "robustness": ("robustness", 34, 35),
        "fps": ("speed_fps", 71, 48),
    },
}


@dataclass(frozen=True)
class Plan:
    """The runs: every variant with every seed.

    Args:
        variants: names of `VARIANTS`.
        seeds: each seed decides the initial weights, the pairs and their order.
        videos, frames: number and length of the synthetic videos to track; 0 videos means none.
        evaluate: data sets to track, LAYOUT:ROOT or LAYOUT:ROOT:SPLIT. Each is scored by its own protocol.
        only: names of the sequences of `evaluate` to track; empty means all.
        train: settings of `tracker train`, except those that the variant and the seed decide.
    """

    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: tuple[int, ...] = (0, 1, 2)
    videos: int = 16
    frames: int = 100
    evaluate: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=600,
            lr=5e-2,
            final_lr=3e-3,
            model=ModelConfig(width=0.25),
            data=DataConfig(synthetic=4800),
        )
    )

    def __post_init__(self) -> None:
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise ValueError(f"variants must be among {', '.join(VARIANTS)}, got {unknown[0]!r}")
        if not self.variants or not self.seeds:
            raise ValueError("variants and seeds must be at least one each, got none")
        if not self.videos and not self.evaluate:
            raise ValueError("videos must be above 0 where evaluate names nothing, got 0")


QUICK = Plan(
    seeds=(0, 1),
    videos=2,
    frames=12,
    train=TrainConfig(
        steps=24, batch_size=4, lr=5e-2, final_lr=3e-3, model=ModelConfig(width=0.125),
        data=DataConfig(synthetic=96, workers=0),
    ),
)  # fmt: skip
#: Section 4.1: 50 epochs with batches of 8 at full width, and a rate from 1e-2 to 1e-4; equations 3 and 8. The paper
#: does not give weight decay and momentum, so they are those of `TrainConfig`.
FULL = Plan(
    train=TrainConfig(epochs=50, score_loss="mean", model=ModelConfig(se_bias=False), data=DataConfig(synthetic=9335))
)


def with_data(plan: Plan, data: list[str], evaluate: list[str]) -> Plan:
    """A plan that trains on `data` (archives of crops, or LAYOUT:ROOT) and tracks `evaluate` (LAYOUT:ROOT)."""
    if data:
        archives = tuple(place for place in data if Path(place).is_file())
        sequences = tuple(place for place in data if place not in archives)
        chosen = replace(plan.train.data, synthetic=0, archives=archives, sequences=sequences)
        if archives:
            chosen = replace(chosen, crop_size=CropArchive(archives[0]).header["crop_size"])
        plan = replace(plan, train=replace(plan.train, data=chosen))
    return replace(plan, evaluate=tuple(evaluate), videos=0) if evaluate else plan


#: Prefix of the columns -> the sequences to track and their layout.
Opened = dict[str, tuple[str, list[Video]]]


def open_videos(plan: Plan) -> Opened:
    """The sequences that the plan tracks. A sequence of the training data raises an error."""
    opened: Opened = {}
    if plan.videos:
        config = ValidationConfig(synthetic=plan.videos, frames=plan.frames)
        opened["synthetic"] = "folder", validation_sequences(config)
    found = set()
    for place in plan.evaluate:
        layout = place.partition(":")[0]
        if layout not in MEASURES:
            raise ValueError(f"--eval must be of a layout among {', '.join(MEASURES)}, got {place!r}")
        sequences = [video for video in open_place(place) if not plan.only or video.name in plan.only]
        found |= {video.name for video in sequences}
        opened.setdefault(layout, (layout, []))[1].extend(sequences)
    if missing := set(plan.only) - found:
        raise ValueError(f"only must name sequences of evaluate, got {', '.join(sorted(missing))}")
    check_room(plan.train.augment, plan.train.data.crop_size)
    pairs = open_pairs(plan.train, held=found)
    if len(pairs) < plan.train.batch_size:
        raise ValueError(
            f"train.data.repeat must be larger: an epoch must fill a batch of {plan.train.batch_size}, "
            f"got {len(pairs)} pairs"
        )
    return {name: place for name, place in opened.items() if place[1]}


def runs_of(plan: Plan) -> Iterator[Row]:
    """The runs. All variants of one seed come before the next seed."""
    return ({"variant": variant, "seed": seed} for seed in plan.seeds for variant in plan.variants)


def run_one(run: Row, plan: Plan, opened: Opened, where: Where) -> Row:
    """Train one variant with one seed and track all sequences with it."""
    model = train_one(run["variant"], run["seed"], plan, where)
    return evaluate(model, opened)


def train_one(variant: str, seed: int, plan: Plan, where: Where) -> SiamFC:
    """Train a variant on the same pairs in the same order as the others, with checkpoints in `where.scratch`."""
    config = replace(plan.train, seed=seed, optimizer=VARIANTS[variant][2], validation=ValidationConfig(every=0))
    pairs = open_pairs(config)
    model = start(variant, seed, config, pairs).to(where.device)
    train(model, config, pairs=pairs, folder=where.scratch)
    return model


def start(variant: str, seed: int, config: TrainConfig, pairs: PairDataset) -> SiamFC:
    """A new network. One seed gives all variants the same backbone, and the same attention if they have one.

    The last convolution of all variants is scaled by the same factor, which the ReLU network needs (`scale_responses`).
    """
    activation, attention, _ = VARIANTS[variant]
    size = {"width": config.model.width, "se_reduction": config.model.se_reduction}
    torch.manual_seed(seed)
    model = SiamFC(activation, attention, **size)
    if not config.model.se_bias:
        remove_se_bias(model)
    if config.model.response_deviation:
        torch.manual_seed(seed)
        plain = SiamFC("relu", "none", **size)
        scale_responses(plain, config.model.response_deviation, pairs=pairs, batch_size=config.batch_size)
        model.backbone.load_state_dict(plain.backbone.state_dict())
    return model


def evaluate(model: SiamFC, opened: Opened) -> Row:
    """Track all sequences and score them by the protocol of their data set.

    Returns:
        "<data set>_<measure>" for the measures in `MEASURES`, and "sequences" with the first measure of each sequence.
    """
    tracker, row, each = Tracker(model), {}, {}
    for name, (layout, videos) in opened.items():
        with tempfile.TemporaryDirectory() as folder:
            job = Job(layout, videos, Path(folder))
            for video in videos:
                job.track(tracker, video)
            scores = score(layout, videos, Path(folder), name)
        row |= {f"{name}_{measure}": scores.overall[measure] for measure in MEASURES[layout]}
        first = MEASURES[layout][0]
        each |= {f"{name}/{video}": values[first] for video, values in scores.sequences.items()}
    return row | {"sequences": each}


def report(console: Console, folder: Path, rows: list[Row], plan: Plan) -> list[Row]:
    """Tables of all variants, and tables 1 and 2 of the paper if its data sets were tracked."""
    values = [column for column in rows[0] if isinstance(rows[0][column], float) and column != "seed"]
    main = [column for column in values if column.endswith(tuple(names[0] for names in MEASURES.values()))][-1]

    def draw(figure: Figure, table: Sequence[Row]) -> None:
        draw_bars(figure, table, "variant", main, f"{in_words(main)}, {len(plan.seeds)} seeds")

    extra = {
        f"Table {number} of the paper, {layout}": paper_table(layout)
        for number, layout in ((1, "otb"), (2, "vot"))
        if f"{layout}_{MEASURES[layout][0]}" in values
    }
    return write_report(console, folder, "tracking", rows, ["variant"], values, draw, extra=extra)


def paper_table(layout: str):
    """A function from the rows of the main table to the rows of a table with the paper's values and ours."""

    def rows_of(table: list[Row]) -> list[Row]:
        columns = PAPER[layout]
        names = {"ReLU": "SiamFC", "all": "Mish, SE, SGD_GCC"}
        lines = []
        for which, (variant, name) in enumerate(names.items(), 1):
            lines.append({"tracker": name, "source": "paper"} | {c[0]: float(c[which]) for c in columns.values()})
            for row in table:
                if row["variant"] == variant:
                    ours = {c[0]: row[f"{layout}_{column}"] for column, c in columns.items()}
                    stds = {f"{c[0]}_std": row[f"{layout}_{column}_std"] for column, c in columns.items()}
                    lines.append({"tracker": name, "source": "here"} | ours | stds)
        return lines

    return rows_of


EXPERIMENT = Experiment(
    name="tracking",
    paper="Zhang and Wang, Object tracking in siamese network with attention mechanism and Mish function",
    about="SiamFC with ReLU, + Mish, + SE, + GC, all of them: success, precision, speed",
    plans={"quick": QUICK, "default": Plan(), "paper": FULL},
    times={"quick": "30 s on one core", "default": "1 hour on two cores", "paper": "days on a GPU; needs --data"},
    key=("variant", "seed"),
    choices=("variants", "seeds"),
    with_data=with_data,
    open=open_videos,
    runs=runs_of,
    run=run_one,
    report=report,
)
