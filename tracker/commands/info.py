"""`tracker info`: the installed versions and the devices."""

from __future__ import annotations

import sys
from typing import Any

from tracker.commands.options import Json
from tracker.commands.output import print_json
from tracker.installed import installed_version


def info(as_json: Json = False) -> None:
    """Print versions, devices and how the fused ops were built.

    \b
    Examples:
      tracker info
      tracker info --json
    """
    # Imported here: the other commands start without them.
    import cv2
    import numpy as np
    import torch

    import fastops

    rows: dict[str, Any] = {
        "siamfc-fastops": installed_version(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "cpu threads": torch.get_num_threads(),
        "cuda devices": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
    }
    rows |= {f"fastops {key}": value for key, value in fastops.build_info().items()}
    if as_json:
        print_json({key.replace(" ", "_"): value for key, value in rows.items()})
        return
    for key, value in rows.items():
        print(f"{key:28} {value}")
