"""`tracker bench`: frames per second of this machine, stock PyTorch against fused ops."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracker.commands.checks import (
    CommandError,
    check_device,
    check_weights,
    find_sequence,
    input_errors,
    parse_box,
    parse_dtype,
    pick_box,
)
from tracker.commands.options import Activation, Box, Device, Dtype, Json, Quiet, Weights
from tracker.commands.output import print_json, progress_bar

if TYPE_CHECKING:
    from tracker.network.model import SiamFC

SIZE = (640, 480)


def bench(
    source: Annotated[
        str | None, typer.Option(help="Video file, image folder or OTB sequence folder. A synthetic video by default.")
    ] = None,
    box: Box = None,
    frames: Annotated[
        int,
        typer.Option(
            "--max-frames", "--frames", min=2, help="Stop after this many frames. The first one is not timed."
        ),
    ] = 50,
    weights: Weights = None,
    activation: Activation = None,
    device: Device = None,
    dtype: Dtype = "float32",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure the frames per second of this machine: the tracker in stock PyTorch against the one with fused ops.

    Both trackers take turns on the same frames, so other load slows both. Times cover the tracker only, not decoding.
    --dtype applies to the fused tracker; stock PyTorch runs in float32. Without --weights the command measures all
    networks of the package.

    \b
    Examples:
      tracker bench
      tracker bench --weights siamfc.pth --dtype auto
      tracker bench --source video.mp4 --box 120,80,64,48 --frames 200
      tracker bench --json > bench.json
    """
    # Imported here so that other commands and shell completion start quickly.
    import torch
    from rich.console import Console

    import fastops
    from tracker.data.synthetic import SyntheticVideo
    from tracker.eval.comparison import compare, comparison_table
    from tracker.io.sources import Source, open_images, open_source

    if box is not None and source is None:
        raise CommandError("--box must come with --source: the synthetic video knows its target")
    start = None if box is None else parse_box(box)
    check_device(device)
    number_type = parse_dtype(dtype, "fastops")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")

    def open_frames() -> Source:
        if source is None:
            return open_source(video.images())
        return open_images(sequence.frames, source) if sequence else open_source(source)

    with input_errors():
        video = SyntheticVideo(0, frames, SIZE, occlusions=0)
        sequence = None if source is None else find_sequence(source, None)
        with open_frames() as opened:
            size, name, count = opened.size, opened.name, min(frames, opened.frame_count or frames)
            if start is None:
                known = video if source is None else sequence
                start = known.boxes[0] if known else pick_box(next(opened))
        networks = _networks(weights, activation)
        with open_frames() as opened, progress_bar(quiet) as bar:
            images = bar.track(islice(opened, frames), task_id=bar.add_task("measuring", total=count))
            comparisons = compare(networks, images, start, device=device, dtype=number_type)
    if as_json:
        summary = {
            "source": "synthetic" if source is None else name,
            "size": size,
            "frames": len(comparisons[0].fastops),
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "siamfc-fastops": fastops.__version__,
            "networks": [comparison.summary() for comparison in comparisons],
        }
        print_json(summary)
    elif not quiet:
        Console().print(comparison_table(comparisons, device))


def _networks(weights: Path | None, activation: str | None) -> dict[str, SiamFC]:
    """The networks to measure, by name."""
    from tracker.network.checkpoint import load_model
    from tracker.network.pretrained import PRETRAINED, find_weights

    if weights is not None:
        return {weights.name: load_model(check_weights(weights), activation=activation)}
    if activation is not None:
        raise CommandError("--activation must come with --weights")
    return {network: load_model(find_weights(name)) for name, network in PRETRAINED.items()}
