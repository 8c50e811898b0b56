"""`python -m fastops` prints what is built and which backend each op uses on each device."""

from __future__ import annotations

import argparse
import json
import sys

import fastops


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fastops", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--json", action="store_true", help="print it as one line of JSON")
    if parser.parse_args(arguments).json:
        print(json.dumps({**fastops.build_info(), "backends": None if fastops.load_error else fastops.backends()}))
        return 1 if fastops.load_error else 0
    for key, value in fastops.build_info().items():
        print(f"{key:20} {value or '-'}")
    if fastops.load_error is not None:
        print(f"\n{fastops.missing_message()}", file=sys.stderr)
        return 1
    print(f"\n{'op':24} {'cpu':20} cuda")
    for name, devices in fastops.backends().items():
        print(f"{name:24} {devices['cpu']:20} {devices['cuda']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
