"""`tracker quantize`: finds the settings of a network for 8-bit integers, and writes them with the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracker.commands.checks import CommandError, check_outputs, check_weights, input_errors
from tracker.commands.options import Activation, Json, Quiet, Weights
from tracker.commands.output import print_json


def quantize(
    data: Annotated[
        list[str],
        typer.Option("--data", metavar="LAYOUT:ROOT[:SPLIT]", help="Sequences for the measurement; repeatable."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.safetensors; may be the file of --weights.")],
    weights: Weights = None,
    activation: Activation = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYOUT:ROOT[:SPLIT]",
            help="Sequences to track in float32 and in int8; without them --dtype auto never chooses int8.",
        ),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=2, help="Number of frames to track in each validation sequence, from the first one on.")
    ] = 120,
    crops: Annotated[int, typer.Option(min=1, max=1024, help="Number of search crops for the measurement.")] = 24,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the settings with which a network runs in 8-bit integers on a CPU (--dtype int8), and write them.

    The weights stay as they are. The file also gets the range of each layer's activations and a correction of its
    biases. On a CPU with VNNI or AMX the network then takes a third of the time or less. The table shows the error of
    each layer and of the score maps: root mean square, relative to the values in float32.

    Layouts are got10k, otb, vot, lasot, trackingnet, imagenet-vid and folder. Measure on the training sequences of the
    network, or on similar ones, and validate on held-out sequences.

    \b
    Examples:
      tracker quantize --weights run/last.safetensors --data otb:/data/OTB -o int8.safetensors
      tracker quantize --data got10k:/data/got10k:train --validation got10k:/data/got10k:val -o int8.safetensors
    """
    # Imported here: the other commands start without them.
    from tracker.data.datasets import open_place
    from tracker.network.checkpoint import load_model, load_state, save_state
    from tracker.network.quantized import measure_int8
    from tracker.training.config import ValidationConfig
    from tracker.training.quantize import sample_crops, with_auc
    from tracker.training.validation import validation_sequences

    weights = check_weights(weights)
    if output.suffix != ".safetensors":
        raise CommandError(f"--output must end in .safetensors, got {str(output)!r}")
    if output.resolve() != weights.resolve():
        check_outputs({"--output": output}, [weights])
    with input_errors():
        model = load_model(weights, activation=activation)
        sequences = []
        for place in data:
            with input_errors(f"--data {place}: "):
                sequences += open_place(place)
        held_back = []
        if validation:
            with input_errors("--validation: "):
                held_back = validation_sequences(
                    ValidationConfig(sequences=tuple(validation), frames=frames, synthetic=0)
                )
        settings, errors = measure_int8(model, *sample_crops(sequences, crops))
        if held_back:
            settings = with_auc(settings, model, held_back)
        model.int8 = settings
        kept = {value.dtype for value in load_state(weights).values() if value.is_floating_point()}
        save_state(model, output, dtype=min(kept, key=lambda dtype: dtype.itemsize))
    if as_json:
        layers = [{"layer": e.name, "range": e.range, "error": e.error} for e in errors]
        print_json({"output": str(output), "layers": layers, "auc": settings.auc})
    elif not quiet:
        print(f"{'layer':12}{'range':>20}{'error':>9}")
        for name, range, error in errors:
            print(f"{name:12}{'{:.3f} to {:.3f}'.format(*range) if range else 'float32':>20}{error:9.2%}")
        if settings.auc is not None:
            print(f"validation AUC: float32 {settings.auc['float32']:.3f}, int8 {settings.auc['int8']:.3f}")
        print(f"wrote {output}")
