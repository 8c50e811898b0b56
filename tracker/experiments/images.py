"""Sets of small labelled images: CIFAR-10 and CIFAR-100, folders of images, the digits of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from tracker.installed import install_hint

SIDE = 32  # side of every image except the digits
CIFAR10 = ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"], 1)
CIFAR100 = (["train.bin"], ["test.bin"], 2)  # two labels per image, the coarse one first


@dataclass(frozen=True)
class ImageSet:
    """Images, float32 [N, C, H, W], with mean 0 and deviation 1 over the training set, and labels, int64 [N]."""

    name: str
    classes: int
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load_images(folder: Path | None = None) -> ImageSet:
    """Open a set of images.

    Args:
        folder: CIFAR-10 or CIFAR-100, binary version; or `train` and `test` with a folder of images per class in each,
            resized to 32 x 32. None means the digits of scikit-learn, 8 x 8, with every fourth one for the test.

    Raises:
        FileNotFoundError: if the folder is none of these.
        ValueError: if a file in it is damaged.
        ImportError: if scikit-learn is needed and missing.
    """
    if folder is None:
        return _digits()
    for name, classes, (train, test, labels) in (("CIFAR-10", 10, CIFAR10), ("CIFAR-100", 100, CIFAR100)):
        if all((folder / file).is_file() for file in [*train, *test]):
            parts = [_cifar([folder / file for file in files], labels, classes) for files in (train, test)]
            return _normalised(name, classes, *parts)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        names = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
        if names:
            return _normalised(
                folder.name, len(names), *(_class_folders(folder / part, names) for part in ("train", "test"))
            )
    hint = ""
    if any((folder / file).exists() for file in ("data_batch_1", "meta", "batches.meta")):
        hint = ": the Python version of CIFAR is made of pickles, which run code when they are read; get the binary one"
    wanted = "CIFAR-10 or CIFAR-100 (binary version), or train/<class>/ and test/<class>/"
    raise FileNotFoundError(f"--data must hold {wanted}, got {folder}{hint}")


def _digits() -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "--data must be given where scikit-learn, which brings digits along, is missing: "
            + install_hint("experiments")
        ) from error
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32)
    # The images are ordered by writer. With every fourth image, all writers are in both parts.
    test = np.arange(len(labels)) % 4 == 3
    return _normalised("digits", 10, (images[~test], labels[~test]), (images[test], labels[test]))


def _cifar(files: list[Path], labels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    images, targets = [], []
    for file in files:
        data = np.fromfile(file, np.uint8)
        if len(data) == 0 or len(data) % (labels + 3 * SIDE * SIDE):
            raise ValueError(f"{file}: must be rows of {labels} + {3 * SIDE * SIDE} bytes, got {len(data)} bytes")
        rows = data.reshape(-1, labels + 3 * SIDE * SIDE)
        if (rows[:, labels - 1] >= classes).any():
            raise ValueError(f"{file}: labels must be below {classes}, got {rows[:, labels - 1].max()}")
        targets.append(rows[:, labels - 1])
        images.append(rows[:, labels:].reshape(-1, 3, SIDE, SIDE))
    return np.concatenate(images), np.concatenate(targets)


def _class_folders(folder: Path, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    images, targets = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).glob("*")):
            image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
            if image is None:
                raise ValueError(f"{path}: must be an image")
            image = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            images.append(image.transpose(2, 0, 1))
            targets.append(label)
    if not images:
        raise ValueError(f"{folder}: must hold images of the classes {', '.join(names)}")
    return np.stack(images), np.array(targets)


def _normalised(
    name: str, classes: int, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> ImageSet:
    mean = train[0].mean((0, 2, 3), dtype=np.float64, keepdims=True)
    deviation = train[0].std((0, 2, 3), dtype=np.float64, keepdims=True) + 1e-12

    def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(((images - mean) / deviation).astype(np.float32)), torch.from_numpy(labels).long()

    return ImageSet(name, classes, tensors(*train), tensors(*test))
