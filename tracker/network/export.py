"""Export the network's two branches for programs without this package, as `torch.export` packages or ONNX graphs.

The graphs use only stock PyTorch operations in float32, with batch norm folded into the convolutions:

    exemplar   crop [1, 3, 127, 127]                                -> template [1, C, 6, 6]
    search     template [1, C, 6, 6], searches [S, 3, 255, 255]     -> scores [S, 1, 17, 17], any S >= 1

Crops are RGB, 0 to 255. The template is an input of the search branch, so one file serves every target.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tracker.config import TrackerConfig
from tracker.installed import install_hint
from tracker.io.draw import check_writable
from tracker.io.files import Replacement, naming
from tracker.network.model import SiamFC

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
BRANCHES = {"exemplar": (("crop",), "template"), "search": (("template", "searches"), "scores")}
OPSET = 20
SEARCHES = {0: "S"}  # the dynamic dimension
# Metadata about the source of each node: paths and class names, which users of the program do not need.
ORIGIN = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


class _Features(nn.Module):
    """`SiamFC.features` with the batch norm folded."""

    def __init__(self, model: SiamFC) -> None:
        super().__init__()
        stock = SiamFC(**model.settings(), ops="reference")
        stock.load_state_dict(model.state_dict())
        stock = stock.float().eval().requires_grad_(False)
        for block in stock.backbone.children():
            if len(block) > 1:
                block[0] = fuse_conv_bn_eval(block[0], block[1])
                del block[1]
        self.backbone, self.attention = stock.backbone, stock.attention

    def forward(self, crop: Tensor) -> Tensor:
        return self.attention(self.backbone(crop))


class _Search(nn.Module):
    def __init__(self, features: _Features, scale: float) -> None:
        super().__init__()
        self.features, self.scale = features, scale

    def forward(self, template: Tensor, searches: Tensor) -> Tensor:
        # With one template, the correlation is a convolution whose weight is an input.
        return F.conv2d(self.features(searches), template) * self.scale


def export_branches(model: SiamFC) -> dict[str, ExportedProgram]:
    """Return the programs "exemplar" and "search" of a model, on the CPU.

    Example:
        >>> branches = export_branches(SiamFC(width=0.125, ops="reference"))
        >>> template = branches["exemplar"].module()(torch.zeros(1, 3, 127, 127))
        >>> branches["search"].module()(template, torch.zeros(5, 3, 255, 255)).shape
        torch.Size([5, 1, 17, 17])
    """
    if model.head != "xcorr":
        raise ValueError(f"model must have the score-map head, got head {model.head!r}")
    features = _Features(model).cpu()
    config = TrackerConfig()
    crop = torch.zeros(1, 3, config.exemplar_size, config.exemplar_size)
    searches = torch.zeros(config.scale_num, 3, config.instance_size, config.instance_size)
    search = _Search(features, model.out_scale)
    with torch.no_grad():
        programs = {
            "exemplar": torch.export.export(features, (crop,)),
            "search": torch.export.export(
                search,
                (features(crop), searches),
                dynamic_shapes=(None, {axis: Dim(name, min=1) for axis, name in SEARCHES.items()}),
            ),
        }
    for program in programs.values():
        program.example_inputs = None  # saving them would add 2.3 MB of zeros
        for node in program.graph.nodes:
            for key in ORIGIN:
                node.meta.pop(key, None)
    return programs


def branch_paths(path: str | os.PathLike[str], format: str) -> dict[str, Path]:
    """Return the file of each branch: `siamfc.onnx` gives `siamfc.exemplar.onnx` and `siamfc.search.onnx`.

    Raises:
        ValueError: unknown format, or a suffix of another format.
        ImportError: the packages of the format are not installed.
    """
    path = Path(path)
    if format not in SUFFIXES:
        raise ValueError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}")
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"path must end in {SUFFIXES[format]} for the format {format}, got {str(path)!r}")
    if format == "onnx" and (missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]):
        raise ImportError(
            f"the format onnx must have the packages onnx and onnxscript, got no {' and no '.join(missing)}: "
            + install_hint("export")
        )
    return {branch: path.with_suffix(f".{branch}{path.suffix}") for branch in BRANCHES}


def export_model(model: SiamFC, path: str | os.PathLike[str], format: str) -> dict[str, Path]:
    """Write both branches of a model and return their files. The files appear complete or not at all.

    Args:
        model: any variant with the score-map head; it is not changed.
        path: see `branch_paths`.
        format: "torch" for `torch.export.load`, "onnx" for ONNX graphs (opset 20), which ONNX's checker verifies.

    Raises:
        ValueError, ImportError: the same as `branch_paths`; ValueError also for a model with a box head.
        OSError: if the files cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = export_model(SiamFC(width=0.125, ops="reference"), f"{folder}/siamfc.pt2", "torch")
        ...     exemplar = torch.export.load(files["exemplar"]).module()
        >>> exemplar(torch.zeros(1, 3, 127, 127)).shape
        torch.Size([1, 32, 6, 6])
    """
    paths = branch_paths(path, format)
    for branch_path in paths.values():
        check_writable(branch_path, "path")
    write = _write_onnx if format == "onnx" else _write_torch
    with ExitStack() as stack:
        files = {branch: Replacement(branch_path) for branch, branch_path in paths.items()}
        for file in files.values():
            stack.callback(file.discard)
        for branch, program in export_branches(model).items():
            with naming(paths[branch]):
                write(program, branch, files[branch].temporary)
        for file in files.values():
            file.commit()
    return paths


def _write_torch(program: ExportedProgram, branch: str, path: Path) -> None:
    data = io.BytesIO()
    torch.export.save(program, data)  # with a full disk torch would end the process
    path.write_bytes(data.getbuffer())


def _write_onnx(program: ExportedProgram, branch: str, path: Path) -> None:
    import onnx

    inputs, output = BRANCHES[branch]
    with _quiet_exporter():
        graph = torch.onnx.export(
            program,
            dynamo=True,
            input_names=inputs,
            output_names=(output,),
            dynamic_shapes=None if branch == "exemplar" else ({}, SEARCHES),
            opset_version=OPSET,
            verbose=False,
        ).model_proto
    for node in graph.graph.node:
        del node.metadata_props[:]
    graph.graph.doc_string = "SiamFC; crops are RGB, 0 to 255"
    onnx.checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString())


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's messages about torchvision and about its own use of torch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
