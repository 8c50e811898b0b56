"""The networks of the package in other engines: python -m benchmarks.engines [--weights NAME ...] [--csv FILE]

fastops        float32, bfloat16 and, if the weights have settings for it (tracker quantize), int8
torch.compile  stock PyTorch with folded batch norms, compiled with frozen weights
ONNX Runtime   the ONNX graph of the same network, in float32 and statically quantized by its own tool
OpenVINO       the same graph in float32, and quantized by NNCF

It times one frame: from the search crops (three scales; one with a box head) and a template to score maps. The engines
take turns in one process with the same number of threads. Before an engine is timed, its maps are compared with those
of stock PyTorch. The relative L2 error must be at most 1e-3 in float32, and 0.2 otherwise. All quantizers get the same
30 crops of real sequences, or of a synthetic video if there are none, and all engines are timed on such crops. The
lower bound is the time of the network's multiplications at the rate at which all threads multiply 8-bit integers in
registers, which is measured too. An engine that fails or is not installed (pip install '.[engines]') is skipped, with a
line that says so. The rows of a network are appended to --csv when it is done.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.harness import append_rows, compare, environment, print_table, relative_error
from tests.support.paths import DATA
from tracker import SiamFC
from tracker.data.datasets import open_place
from tracker.data.sequence import Sequence
from tracker.data.synthetic import SyntheticVideo
from tracker.network.autotune import make_network
from tracker.network.box_head import BoxOutput
from tracker.network.checkpoint import load_model
from tracker.network.pretrained import PRETRAINED, find_weights
from tracker.training.quantize import sample_crops

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2, "int8": 0.2}
CALIBRATION = 30  # number of crops for the quantizers
OPSET = 20

Run = Callable[[], Tensor]


class Search(nn.Module):
    """The search branch in stock PyTorch with folded batch norms, from template and searches to maps."""

    def __init__(self, model: SiamFC) -> None:
        super().__init__()
        stock = SiamFC(**model.settings(), out_scale=model.out_scale, ops="reference")
        stock.load_state_dict(model.state_dict())
        self.network = stock.eval().requires_grad_(False)
        for parent in list(self.network.modules()):
            if isinstance(parent, nn.Sequential) and len(parent) > 1 and isinstance(parent[1], nn.BatchNorm2d):
                parent[0] = fuse_conv_bn_eval(parent[0], parent[1])
                parent[1] = nn.Identity()

    def forward(self, template: Tensor, searches: Tensor) -> Tensor:
        maps = self.network.score(template, self.network.features(searches))
        return torch.cat(maps, 1) if isinstance(maps, BoxOutput) else maps


class Frame:
    """The input of every engine.

    Attributes:
        template: features of an exemplar, float32.
        searches: uint8 [S, 3, 255, 255].
        calibration: float32 [1, 3, 255, 255] each.
    """

    def __init__(self, model: SiamFC, exemplars: Tensor, searches: Tensor) -> None:
        scales = 1 if model.head == "box" else 3
        self.branch = Search(model)
        with torch.inference_mode():
            self.template = self.branch.network.features(exemplars[:1].float()).contiguous()
        self.searches = searches[:scales]
        self.calibration = [crop[None].float().contiguous() for crop in searches]
        # The number of crops is that of a frame, because the graphs have a fixed size.
        self.batches = [self.calibration[i : i + scales] for i in range(0, len(self.calibration) - scales + 1, scales)]
        self.batches = [torch.cat(batch) for batch in self.batches]


# ---- engines: (name, dtype, run) of each ---------------------------------------------------------------------------


def fastops_engines(model: SiamFC, frame: Frame) -> Iterator[tuple[str, str, Run]]:
    for dtype in ("float32", "bfloat16", "int8"):
        if dtype == "int8" and model.int8 is None:
            print("fastops int8: left out, the weights carry no settings for it (tracker quantize)")
            continue
        network = make_network(model, "cpu", dtype if dtype == "int8" else getattr(torch, dtype))
        searches = frame.searches.to(network.crop_dtype).contiguous(memory_format=torch.channels_last)
        template = frame.template.contiguous(memory_format=torch.channels_last)
        yield "fastops", dtype, lambda n=network, x=searches, z=template: n.scores(z, n.features(x))


def compiled(model: SiamFC, frame: Frame) -> Iterator[tuple[str, str, Run]]:
    torch._inductor.config.freezing = True
    function = torch.compile(frame.branch)
    searches = frame.searches.float().contiguous()
    yield "torch.compile", "float32", lambda: function(frame.template, searches)


def onnx_graph(frame: Frame, path: Path) -> None:
    with quiet():
        program = torch.onnx.export(
            frame.branch, (frame.template, frame.searches.float().contiguous()), dynamo=True,
            input_names=("template", "searches"), output_names=("maps",), opset_version=OPSET, verbose=False,
        )  # fmt: skip
        program.save(path)


def onnx_runtime(model: SiamFC, frame: Frame, graph: Path) -> Iterator[tuple[str, str, Run]]:
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    inputs = {"template": frame.template.numpy(), "searches": frame.searches.float().contiguous().numpy()}

    def session(path: Path) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: torch.from_numpy(opened.run(None, inputs)[0])

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(frame.batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {"template": inputs["template"], "searches": batch.numpy()}

    yield "ONNX Runtime", "float32", session(graph)
    prepared, quantized = graph.with_suffix(".prepared.onnx"), graph.with_suffix(".int8.onnx")
    with quiet():
        quant_pre_process(graph, prepared)
        quantize_static(
            prepared, quantized, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    yield "ONNX Runtime", "int8", session(quantized)


def openvino(model: SiamFC, frame: Frame, graph: Path) -> Iterator[tuple[str, str, Run]]:
    import openvino as ov

    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # otherwise a CPU with AMX runs float32 graphs in bfloat16
    }
    inputs = [frame.template.numpy(), frame.searches.float().contiguous().numpy()]

    def compile_(network: object) -> Run:
        request = core.compile_model(network, "CPU", settings).create_infer_request()
        return lambda: torch.from_numpy(request.infer(inputs)[0])

    network = core.read_model(graph)
    yield "OpenVINO", "float32", compile_(network)
    if find_spec("nncf") is None:
        print("OpenVINO int8: left out, nncf is not installed")
        return
    import nncf

    nncf.set_log_level(logging.ERROR)
    batches = [[frame.template.numpy(), batch.numpy()] for batch in frame.batches]
    with quiet():
        quantized = nncf.quantize(network, nncf.Dataset(batches), subset_size=len(batches))
    yield "OpenVINO", "int8", compile_(quantized)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the messages of exporters and quantizers."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def engines(model: SiamFC, frame: Frame, folder: Path) -> dict[tuple[str, str], Run]:
    """The engines that are installed, work and agree with stock PyTorch."""
    makers: dict[str, Callable[[], Iterator[tuple[str, str, Run]]]] = {
        "fastops": lambda: fastops_engines(model, frame),
        "torch.compile": lambda: compiled(model, frame),
    }
    graph = folder / "search.onnx"
    missing = [package for package in ("onnx", "onnxscript") if find_spec(package) is None]
    if missing:
        print(f"ONNX Runtime, OpenVINO: left out, {' and '.join(missing)} not installed")
    else:
        onnx_graph(frame, graph)
        for name, package, maker in (("ONNX Runtime", "onnxruntime", onnx_runtime), ("OpenVINO", "openvino", openvino)):
            if find_spec(package) is None:
                print(f"{name}: left out, {package} is not installed")
            else:
                makers[name] = lambda maker=maker: maker(model, frame, graph)
    expected = frame.branch(frame.template, frame.searches.float())
    runs: dict[tuple[str, str], Run] = {}
    for name, make in makers.items():
        try:
            for engine, dtype, run in make():
                error = relative_error(run(), expected)
                if error > TOLERANCE[dtype]:
                    print(f"{engine} {dtype}: left out, its maps are {error:.2g} off")
                    if engine == "fastops":
                        raise SystemExit(f"engines: fastops {dtype} must give the maps of stock PyTorch")
                    continue
                runs[engine, dtype] = run
        except Exception as error:  # an error of another project; the other engines can still be measured
            if name == "fastops":
                raise
            print(f"{name}: left out, {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    return runs


# ---- measuring -----------------------------------------------------------------------------------------------------


def multiplications(model: SiamFC, frame: Frame) -> int:
    """The multiplications in the convolutions of one frame."""
    total = 0

    def count(conv: nn.Conv2d, _: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * conv.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in frame.branch.modules() if isinstance(m, nn.Conv2d)]
    frame.branch(frame.template, frame.searches.float())
    for hook in hooks:
        hook.remove()
    return total


def integer_rate() -> float:
    """Products of 8-bit integers per second in registers, by all threads; the best of five runs."""
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        products = torch.ops.fastops.int8_products(1_000_000)
        rates.append(products / (time.perf_counter() - start))
    return max(rates)


def find_sequences(places: list[str] | None) -> list[Sequence]:
    folder = DATA / "train"
    if places or folder.is_dir():
        return [sequence for place in places or [f"otb:{folder}"] for sequence in open_place(place)]
    return [Sequence.from_video("synthetic", SyntheticVideo(seed=0, frames=120))]


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights", nargs="+", default=list(PRETRAINED), help="names of networks in the package, or files"
    )
    parser.add_argument("--data", action="append", metavar="LAYOUT:ROOT", help="source of the crops")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds for each network")
    parser.add_argument("--csv", type=Path, help="append the rows to this file")
    args = parser.parse_args()
    where = environment("cpu")
    rate = integer_rate()
    print(f"{where['device']}, torch {where['torch']}; integers: {rate / 1e9:.0f} billion products a second\n")
    exemplars, searches = sample_crops(find_sequences(args.data), CALIBRATION)
    for weights in args.weights:
        name = Path(weights).stem
        model = load_model(find_weights(weights))
        frame = Frame(model, exemplars, searches)
        floor = multiplications(model, frame) / rate
        with tempfile.TemporaryDirectory() as folder:
            runs = engines(model, frame, Path(folder))
            expected = frame.branch(frame.template, frame.searches.float())
            errors = {key: relative_error(run(), expected) for key, run in runs.items()}
            timings = compare({f"{engine} {dtype}": run for (engine, dtype), run in runs.items()}, "cpu", args.seconds)
        ours = timings["fastops float32"].median
        rows, table = [], []
        for (engine, dtype), error in errors.items():
            timing = timings[f"{engine} {dtype}"]
            row = {
                "benchmark": "engines",
                "model": name,
                "engine": engine,
                "dtype": dtype,
                "crops": len(frame.searches),
            }
            row |= {"ms": f"{timing.median * 1e3:.3f}", "ms_low": f"{timing.low * 1e3:.3f}"}
            row |= {"ms_high": f"{timing.high * 1e3:.3f}", "lower_bound_ms": f"{floor * 1e3:.3f}"}
            row |= {"error": f"{error:.2g}", "over_fastops_float32": f"{ours / timing.median:.3f}"}
            rows.append({**where, **row})
            times = f"{timing.median * 1e3:.2f}", f"{timing.low * 1e3:.2f} to {timing.high * 1e3:.2f}"
            table.append([name, engine, dtype, *times, f"{ours / timing.median:.2f}x", f"{error:.1e}"])
        header = ["network", "engine", "dtype", "ms", "20 to 80 %", "speed over our float32", "error"]
        print_table(header, table)
        print(f"lower bound in integers: {floor * 1e3:.2f} ms\n", flush=True)
        if args.csv:
            append_rows(args.csv, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
