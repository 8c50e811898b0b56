"""mkdocs hook: `<!-- speed: BENCHMARK [OP ...] -->` becomes a table of benchmarks/results at each build."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from mkdocs.exceptions import PluginError
from results import Row, last_rows, source_of

_MARKER = re.compile(r"^<!-- speed: (.+?) -->$", re.MULTILINE)


def _number(value: str | float, digits: int = 1) -> str:
    return f"{float(value):,.{digits}f}" if value != "" else ""


def _over(a: str, b: str, unit: str = "x") -> str:
    return f"{float(a) / float(b):.{2 if unit == '' else 1}f}{unit}" if a and b else ""


def _ops(row: Row) -> dict[str, str]:
    sizes = " ".join(filter(None, (row["size"], row["layout"])))
    cells = {"op": f"`{row['op']}`", "size": sizes, "": {"forward+backward": "f+b"}.get(row["direction"], "forward")}
    cells |= {f"{who} µs": _number(row[f"{who}_us"]) for who in ("eager", "compile", "fastops", "copy")}
    return cells | {
        "eager / fastops": _over(row["eager_us"], row["fastops_us"]),
        "compile / fastops": _over(row["compile_us"], row["fastops_us"]),
        "memory": _over(row["fastops_bytes"], row["eager_bytes"], ""),
    }


def _optim(row: Row) -> dict[str, str]:
    names = {"a loop": "loop", "foreach": "gc+foreach", "torch fused": "gc+fused", "fastops": "fastops", "copy": "copy"}
    milliseconds = {who: row[f"{key}_us"] and _number(float(row[f"{key}_us"]) / 1000) for who, key in names.items()}
    return {"step": f"`{row['op']}`", **{f"{who} ms": time for who, time in milliseconds.items()}}


def _accelerate(row: Row) -> dict[str, str]:
    cells = {"network": row["model"], "mode": row["direction"]}
    cells |= {f"{who} ms": _number(row[f"{who}_ms"]) for who in ("eager", "compile", "fastops")}
    return cells | {"eager / fastops": f"{float(row['eager_ms']) / float(row['fastops_ms']):.2f}x"}


def _fps(row: Row) -> dict[str, str]:
    return {
        "network": row["model"],
        "tracker": row["tracker"],
        "tracker fps": _number(row["tracker_fps"]),
        "end-to-end fps": _number(row["end_to_end_fps"]),
        **{f"{part} ms": _number(row[f"{part}_ms"]) for part in ("p50", "p95", "p99")},
        "speed-up": f"{row['over_reference']}x",
        "lowest IoU": _number(row["min_iou"], 3),
    }


def _stages(row: Row) -> dict[str, str]:
    cells = {"video": row["size"], "targets": row["targets"], "scales": row["scales"], "dtype": row["dtype"]}
    measured = ("decode", "crop", "network", "xcorr", "response", "other")
    stages = {name: name for name in measured} | {"lower bound": "floor"}
    cells |= {f"{name} ms": _number(row[f"{column}_ms"], 2) for name, column in stages.items()}
    return cells | {
        "target-fps": _number(row["target_fps"]),
        "with decode": _number(row["end_to_end_target_fps"]),
        "singles": _number(row["singles_target_fps"]),
    }


def _hard_cases(row: Row) -> dict[str, str]:
    return {"target": row["target"], "frames": f"{int(row['frames']):,}", "p50 ms": _number(row["p50_ms"])}


def _train(row: Row) -> dict[str, str]:
    parts = ("data", "forward", "backward", "optimizer", "step")
    return {
        "competitor": f"{row['competitor']}, {row['precision']}",
        **{f"{part} ms": _number(row[f"{part}_ms"]) for part in parts},
        "pairs/s": _number(row["pairs_per_s"]),
        "waits for data": row["data_wait_percent"] and f"{_number(row['data_wait_percent'])} %",
    }


COLUMNS: dict[str, Callable[[Row], dict[str, str]]] = {
    "ops": _ops,
    "optim": _optim,
    "accelerate": _accelerate,
    "fps": _fps,
    "stages": _stages,
    "hard_cases": _hard_cases,
    "train": _train,
}


def table(rows: list[Row], columns: Callable[[Row], dict[str, str]]) -> str:
    """A Markdown table with a line about the machine and the commit of the measurement."""
    cells = [columns(row) for row in rows]
    kept = [name for name in cells[0] if any(row[name] for row in cells)]  # no empty columns
    lines = [kept, ["---"] * len(kept), *([row[name] for name in kept] for row in cells)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"*{source_of(rows[0])}*"])


def speed(arguments: str) -> str:
    """The tables of a marker, one for each device.

    Raises:
        ValueError: for an unknown benchmark or op.
    """
    benchmark, *ops = arguments.split()
    if benchmark not in COLUMNS:
        raise ValueError(f"speed: benchmark must be one of {', '.join(COLUMNS)}, got {benchmark!r}")
    return "\n\n".join(table(rows, COLUMNS[benchmark]) for rows in last_rows(benchmark, ops))


def on_page_markdown(markdown: str, *, page: Any, **kwargs: Any) -> str:
    try:
        return _MARKER.sub(lambda match: speed(match[1]), markdown)
    except ValueError as error:
        raise PluginError(f"{page.file.src_path}: {error}") from None
