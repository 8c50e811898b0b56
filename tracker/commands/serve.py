"""`tracker serve`: serves the web page on this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import webbrowser
from typing import Annotated

import typer

from tracker.commands.checks import CommandError, check_device, check_weights, has_display, input_errors, parse_dtype
from tracker.commands.options import Activation, Device, Dtype, Weights
from tracker.installed import install_hint

SHUTDOWN_SECONDS = 2  # for pending responses when the server ends


def serve(
    weights: Weights = None,
    activation: Activation = None,
    device: Device = None,
    dtype: Dtype = "float32",
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Beyond 127.0.0.1, everyone who reaches this machine can use it."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 7860,
    open_page: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Open the page in a browser; default: only if there is a display."),
    ] = None,
    max_upload: Annotated[float, typer.Option(min=0.001, help="Largest accepted file, in megabytes.")] = 200,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Longest accepted video, in seconds.")] = 120,
    max_frames: Annotated[int, typer.Option(min=1, help="Longest accepted video, in frames.")] = 7200,
) -> None:
    """Open a page to track in the browser: choose a video, draw a box, watch, download.

    Needs pip install starlette uvicorn. The page loads nothing from other hosts and sends nothing to them. Videos are
    kept in a temporary folder until the server ends. A browser sees only its own videos. One video is tracked at a
    time, and the others wait. A run ends if no page has asked for it for three minutes. Ctrl-C ends the server.

    \b
    Examples:
      tracker serve
      tracker serve --weights runs/first/model.safetensors --port 8000
      tracker serve --max-upload 1000 --max-seconds 600 --max-frames 36000 --no-open
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise CommandError(f"{error.name} must be installed: {install_hint('serve')}") from None
    # Imported here so that other commands start quickly.
    from tracker.serve.app import create_app
    from tracker.serve.limits import Limits
    from tracker.serve.work import Worker

    check_device(device)
    number_type = parse_dtype(dtype, "fastops")
    weights = check_weights(weights)
    limits = Limits(upload_bytes=round(max_upload * 1e6), seconds=max_seconds, frames=max_frames)
    with input_errors():
        worker = Worker(weights, activation=activation, device=device, dtype=number_type, limits=limits)
    with _listen(host, port) as listening:
        local = _is_loopback(host)
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{listening.getsockname()[1]}"
        app = create_app(worker, limits, hosts={"127.0.0.1", "localhost", "::1", host} if local else None)
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", access_log=False, server_header=False, ws="none",
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            )
        )  # fmt: skip
        print(f"{address}   (Ctrl-C ends it)", flush=True)
        if not local:
            print("tracker: everyone who can reach this machine can use this page", file=sys.stderr)
        if has_display() if open_page is None else open_page:
            webbrowser.open(address)  # the socket is already open, so the browser waits for the server
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # the normal end of a server
            pass


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CommandError(f"--host must be an address of this machine, got {host!r} ({error.strerror})") from None
    try:
        if os.name == "posix":  # on other systems two servers could share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        raise CommandError(
            f"--host and --port must be free to listen at, got {host}:{port} ({error.strerror})"
        ) from None
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
