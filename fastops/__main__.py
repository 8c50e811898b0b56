"""``python -m fastops``: what is built and which backend each op uses on each device."""

from __future__ import annotations

import sys

import fastops


def main() -> int:
    for key, value in fastops.build_info().items():
        print(f"{key:20} {value or '-'}")
    if fastops.load_error is not None:
        print(f"\n{fastops.missing_message()}", file=sys.stderr)
        return 1
    print(f"\n{'op':20} {'cpu':20} cuda")
    for name, devices in fastops.backends().items():
        print(f"{name:20} {devices['cpu']:20} {devices['cuda']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
