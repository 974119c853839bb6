"""The key that clients must send, where the server has one."""

import hmac
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request

from util.serving import pages
from util.serving.observed import error_answer

Headers = Iterable[tuple[bytes, bytes]]  # names in small letters, as HTTP servers give them


class ApiKey:
    """What `Authorization: Bearer KEY` or `X-API-Key: KEY` must be; None: nothing is asked for."""

    def __init__(self, key: str | None) -> None:
        self._key = None if key is None else key.encode()

    def is_given(self, headers: Headers) -> bool:
        """Returns whether a request's headers hold the key; how long that takes does not tell it."""
        if self._key is None:
            return True
        found = False
        for name, value in headers:
            if name == b"authorization":
                scheme, _, given = value.partition(b" ")
                found |= scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key)
            elif name == b"x-api-key":
                found |= hmac.compare_digest(value, self._key)
        return found


class KeyAsked:
    """Asks for the key of everything but the health checks and the page."""

    # The page holds nothing of the model's: it asks /v1 for that, and its user for the key
    OPEN = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", *pages.FILES)

    def __init__(self, app: Any, *, key: ApiKey) -> None:
        self.app = app
        self.key = key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in self.OPEN or self.key.is_given(scope["headers"]):
            await self.app(scope, receive, send)
            return
        answer = error_answer(Request(scope), 401, "the API key is missing or wrong")
        answer.headers["WWW-Authenticate"] = "Bearer"
        await answer(scope, receive, send)
