"""Images with boxes of several classes: COCO, PASCAL VOC, and drawn shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from tracker.io.images import read_image

SHAPES = ("ellipse", "rectangle", "triangle")
HELD_OUT = 1_000_000_000  # seeds of the shapes to test on, from here on


@dataclass(frozen=True)
class Boxes:
    """What an image shows: boxes float32 [N, 4], x1, y1, x2, y2 in pixels; labels int64 [N]; areas float32 [N], of the
    objects; ignored bool [N], crowds and difficult objects, which are neither learnt nor scored."""

    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class BoxedImages:
    """Images and what they show, each read when it is asked for.

    Attributes:
        classes: names, in the order of the labels.
        load: the RGB uint8 image [H, W, 3] and the `Boxes` of an index.
        count: number of images.
    """

    classes: tuple[str, ...]
    load: Callable[[int], tuple[np.ndarray, Boxes]]
    count: int


def open_boxed_images(place: str, size: int, images: int, test_images: int) -> tuple[BoxedImages, BoxedImages]:
    """Open a detection set, to train on and to test on.

    Args:
        place: `coco:ROOT`, with annotations/instances_train*.json and instances_val*.json and the images in train* and
            val*, or in those of images/; `voc:ROOT`, with Annotations, JPEGImages and ImageSets/Main, test.txt or else
            val.txt to test on; "" for drawn shapes.
        size: side of the drawn images in pixels.
        images, test_images: how many images; 0 for all, of drawn ones for 2000 and 200.

    Raises:
        FileNotFoundError: when files of the set are missing.
        ValueError: for another layout, or annotations that are damaged.

    Example:
        >>> train, test = open_boxed_images("", 64, 10, 5)
        >>> image, shown = train.load(3)
        >>> image.shape, train.count, test.count, shown.boxes.shape[1]
        ((64, 64, 3), 10, 5, 4)
    """
    if not place:
        return tuple(
            BoxedImages(SHAPES, partial(_load_drawn, first, size), count)
            for first, count in ((0, images or 2000), (HELD_OUT, test_images or 200))
        )
    layout, _, root = place.partition(":")
    layouts = {"coco": _open_coco, "voc": _open_voc}
    if layout not in layouts or not root:
        raise ValueError(f"--data must be coco:ROOT or voc:ROOT for detection, got {place!r}")
    classes, *parts = layouts[layout](Path(root))
    parts[0] = [(path, shown) for path, shown in parts[0] if not shown.ignored.all()]  # others teach no box
    for part, name in zip(parts, ("train", "test"), strict=True):
        if not part:
            raise ValueError(f"--data must hold images with boxes to {name} on, got none in {root}")
    parts = [part[: count or None] for part, count in zip(parts, (images, test_images), strict=True)]
    return tuple(BoxedImages(classes, partial(_load_file, part), len(part)) for part in parts)


def _load_drawn(first: int, size: int, index: int) -> tuple[np.ndarray, Boxes]:
    return _drawn(first + index, size)


def _load_file(files: Sequence[tuple[Path, Boxes]], index: int) -> tuple[np.ndarray, Boxes]:
    path, shown = files[index]
    return read_image(path), shown


def _boxes(rows: Sequence[tuple[Sequence[float], int, float, bool]]) -> Boxes:
    """Of rows of a box, its label, its area, whether it is ignored."""
    boxes, labels, areas, ignored = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Boxes(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(areas, np.float32),
        np.array(ignored, bool),
    )  # fmt: skip


# ---- COCO ----------------------------------------------------------------------------------------------------


def _open_coco(root: Path) -> tuple:
    parts, classes = [], ()
    for kind in ("train", "val"):
        files = sorted((root / "annotations").glob(f"instances_{kind}*.json"))
        if len(files) != 1:
            raise FileNotFoundError(
                f"--data must hold one annotations/instances_{kind}*.json, got {len(files)} of them in {root}"
            )
        name = files[0].stem.removeprefix("instances_")
        folder = next((f for f in (root / name, root / "images" / name) if f.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(f"--data must hold the images in {name}/ or images/{name}/, got neither in {root}")
        try:
            data = json.loads(files[0].read_bytes())
            categories = sorted(data["categories"], key=lambda category: category["id"])
            found = tuple(category["name"] for category in categories)
            labels = {category["id"]: label for label, category in enumerate(categories)}
            rows: dict[int, list] = {image["id"]: [] for image in data["images"]}
            for one in data["annotations"]:
                x, y, w, h = one["bbox"]
                if w > 0 and h > 0:
                    box = (x, y, x + w, y + h)
                    rows[one["image_id"]].append((box, labels[one["category_id"]], one["area"], bool(one["iscrowd"])))
            parts.append([(folder / image["file_name"], _boxes(rows[image["id"]])) for image in data["images"]])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{files[0]}: must be annotations of COCO, got {type(error).__name__}: {error}") from error
        if classes and found != classes:
            raise ValueError(f"{files[0]}: categories must be those to train on, got {len(found)} others")
        classes = found
    return classes, *parts


# ---- PASCAL VOC ----------------------------------------------------------------------------------------------


def _open_voc(root: Path) -> tuple:
    lists = root / "ImageSets" / "Main"
    names = ("trainval", "test") if (lists / "test.txt").is_file() else ("train", "val")
    parts = []
    for name in names:
        if not (lists / f"{name}.txt").is_file():
            raise FileNotFoundError(f"--data must hold ImageSets/Main/{name}.txt, got none in {root}")
        ids = (lists / f"{name}.txt").read_text().split()
        parts.append([(root / "JPEGImages" / f"{i}.jpg", _read_voc(root / "Annotations" / f"{i}.xml")) for i in ids])
    classes = tuple(sorted({row[1] for part in parts for _, rows in part for row in rows}))
    labels = {name: label for label, name in enumerate(classes)}
    return classes, *(
        [(path, _boxes([(box, labels[name], area, hard) for box, name, area, hard in rows])) for path, rows in part]
        for part in parts
    )


def _read_voc(path: Path) -> list[tuple[tuple[float, ...], str, float, bool]]:
    """Rows of a box, the name of its class, its area, whether it is difficult. Pixels count from 1, corners inside."""
    try:
        rows = []
        for one in ElementTree.fromstring(path.read_bytes()).iter("object"):
            x1, y1, x2, y2 = (float(one.find("bndbox").findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
            box = (x1 - 1, y1 - 1, x2, y2)
            area = (box[2] - box[0]) * (box[3] - box[1])
            rows.append((box, one.findtext("name").strip(), area, one.findtext("difficult", "0").strip() == "1"))
        return rows
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: must be an annotation of PASCAL VOC, got {error}") from error


# ---- drawn shapes --------------------------------------------------------------------------------------------


def draw_shapes(seed: int, size: int) -> tuple[np.ndarray, Boxes]:
    """One to four turned ellipses, rectangles and triangles of aspect ratios up to 4, on a background of their kind.

    The boxes are those of the pixels drawn. Lines and spots of no class lie below the shapes.
    """
    rng = np.random.default_rng(seed)
    image = _texture(rng, size)
    for _ in range(2):
        ends = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(image, *ends, rng.integers(0, 256, 3).tolist(), 1, cv2.LINE_AA)
    rows = []
    for _ in range(int(rng.integers(1, 5))):
        label = int(rng.integers(len(SHAPES)))
        mask = _mask(rng, label, size)
        x, y, w, h = cv2.boundingRect(mask)
        box = (x, y, x + w, y + h)
        if w * h > 16 and all(_overlap(box, other) < 0.1 for other, *_ in rows):
            np.copyto(image, _texture(rng, size), where=mask[..., None] > 0)
            rows.append((box, label, float(np.count_nonzero(mask)), False))
    noise = rng.normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), _boxes(rows)


_drawn = cache(draw_shapes)


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A colour that changes slowly from place to place."""
    colour = rng.integers(0, 256, 3)
    spots = np.clip(colour + rng.normal(0, 25, (4, 4, 3)), 0, 255).astype(np.uint8)
    return cv2.resize(spots, (size, size), interpolation=cv2.INTER_CUBIC)


def _mask(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    side, ratio = size * 2 ** rng.uniform(-2.5, -1.0), 2 ** rng.uniform(-1, 1)
    w, h = side * ratio, side / ratio
    angle = rng.uniform(0, 2 * np.pi)
    if SHAPES[label] == "ellipse":
        turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        corners = np.stack([np.cos(turns), np.sin(turns)], 1)
    elif SHAPES[label] == "rectangle":
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.9
    else:
        corners = np.array([[-1, 1], [1, 1], [rng.uniform(-1, 1), -1]])
    corners = corners * (w / 2, h / 2) @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    centre = rng.uniform(0.15, 0.85, 2) * size
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(corners + centre).astype(np.int32)], 1)
    return mask


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The intersection as a part of the smaller box."""
    w, h = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    return max(w, 0) * max(h, 0) / min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
