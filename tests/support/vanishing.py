"""Videos whose target is cut out for a while and comes back somewhere else."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

ABSENT = 30  # frames without the target


class VanishingVideo:
    """A still frame whose target stays, is cut out, and comes back elsewhere.

    The hole is inpainted. The target's patch keeps its rectangle, so that nothing but its look tells where it is.

    Args:
        image: RGB uint8 [H, W, 3] with a target.
        box: x, y, w, h of the target.
        place: x, y of the left top corner where it comes back.
        before, after: frames before it goes and after it came back.
        seed: of the sensor noise.
    """

    def __init__(
        self,
        image: np.ndarray,
        box: np.ndarray,
        place: tuple[int, int],
        before: int = 10,
        after: int = 50,
        seed: int = 0,
    ) -> None:
        x, y, w, h = (round(float(v)) for v in box)
        self._patch = image[y : y + h, x : x + w].copy()
        hole = np.zeros(image.shape[:2], np.uint8)
        hole[max(y - h // 8, 0) : y + h + h // 8, max(x - w // 8, 0) : x + w + w // 8] = 1
        self._empty = cv2.inpaint(image, hole, 5, cv2.INPAINT_TELEA)
        self._rng = np.random.default_rng(seed)
        first, second = (float(x), float(y)), (float(place[0]), float(place[1]))
        self.boxes = np.array(
            [(*first, w, h)] * before + [(np.nan,) * 4] * ABSENT + [(*second, w, h)] * after, np.float64
        )
        self.returns = before + ABSENT  # number of the first frame in which it is back

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[np.ndarray]:
        for box in self.boxes:
            image = self._empty.astype(np.float32)
            if np.isfinite(box[0]):
                x, y, w, h = box.astype(int)
                image[y : y + h, x : x + w] = self._patch[:h, :w]
            noise = self._rng.normal(0, 2, image.shape).astype(np.float32)
            yield np.clip(image + noise, 0, 255).astype(np.uint8)
