"""Access control: only this page, under this server's name, and each browser for its own videos."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "tracker"
SAFE_METHODS = ("GET", "HEAD")
HEADERS = {
    # The page is self-contained: the browser refuses other hosts and foreign scripts.
    "Content-Security-Policy": "default-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Middleware that identifies each browser by a random token in a cookie, the "owner" in the scope.

    It refuses (403) a Host that is not in `hosts` (None allows any): otherwise a foreign name could point here and read
    the answers. It also refuses changes requested by pages of another origin.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        token = _token(headers.get("cookie", ""))
        scope["owner"] = token or secrets.token_urlsafe(24)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(HEADERS)
                if token is None:
                    answer.append("Set-Cookie", f"{COOKIE}={scope['owner']}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        refusal = self._refusal(scope["method"], headers)
        answer = JSONResponse({"error": refusal}, 403) if refusal else self._app
        await answer(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, page = urlsplit(f"//{host}").hostname, urlsplit(origin or "").netloc
        except ValueError:  # an unclosed bracket
            return "the names of this server and of the page must be addresses"
        if self._hosts is not None and name not in self._hosts:
            return "this server goes by another name"
        if method not in SAFE_METHODS and origin is not None and page != host:
            return "this was asked for by another page"
        return None


def _token(cookie: str) -> str | None:
    try:
        found = SimpleCookie(cookie).get(COOKIE)
    except CookieError:
        return None
    return found.value if found is not None and re.fullmatch(r"[\w-]{32}", found.value, re.ASCII) else None
