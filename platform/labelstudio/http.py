"""Requests to Label Studio: its two kinds of key, one clear error each, and nothing ever sent twice blindly.

Label Studio's own client retries POST after a time-out, and imports then double. Here only reads are
repeated; a write whose fate is unknown raises `UncertainError`, and the caller asks the server what it has.
Messages name the call and the status, never what was sent or answered.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Generator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlparse

import httpx
from pydantic import SecretStr

from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio.config import KEY_VARIABLE

logger = logging.getLogger(__name__)

_READ_ATTEMPTS = 3
_PAUSE_S = 0.5


class UncertainError(ServiceError):
    """A write was sent and no answer tells whether it took effect."""


class NotFoundError(ServiceError):
    """No such project, task or page."""


class _TokenAuth(httpx.Auth):
    """A personal access token is exchanged for five-minute access tokens; a legacy token goes as it is."""

    requires_response_body = True

    def __init__(self, url: str, key: SecretStr) -> None:
        self._url, self._key = url, key
        self._is_personal = key.get_secret_value().count(".") == 2  # a JWT has three parts
        self._access: str | None = None

    def _refresh(self) -> Generator[httpx.Request, httpx.Response, None]:
        body = {"refresh": self._key.get_secret_value()}
        answer = yield httpx.Request("POST", f"{self._url}/api/token/refresh", json=body)
        if answer.status_code in (400, 401, 403):
            raise _refused(self._url, answer.status_code)
        try:
            self._access = str(answer.json()["access"])
        except (ValueError, LookupError, TypeError) as err:
            raise ServiceError(
                f"{self._url} answers {answer.status_code} where Label Studio would give an access token; "
                "check the address"
            ) from err

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if not self._is_personal:
            request.headers["Authorization"] = f"Token {self._key.get_secret_value()}"
            yield request
            return
        if self._access is None:
            yield from self._refresh()
        request.headers["Authorization"] = f"Bearer {self._access}"
        answer = yield request
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # nothing was done; the five minutes are over
            yield from self._refresh()
            request.headers["Authorization"] = f"Bearer {self._access}"
            yield request


def _refused(url: str, status: int) -> ServiceError:
    return ServiceError(
        f"Label Studio at {url} refuses the key ({status}); make a personal access token under "
        f"Account & Settings and export it as {KEY_VARIABLE}"
    )


def _is_loopback(url: str) -> bool:
    host = urlparse(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection:
    """A logged-in connection; use as a context manager or `close` it.

    Args:
        url: Address of Label Studio.
        key: Personal access token or legacy token.
        timeout_s: Longest wait for an answer, seconds.
    """

    def __init__(self, url: str, key: SecretStr, *, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            auth=_TokenAuth(self.url, key),
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10)),
            trust_env=not _is_loopback(self.url),  # a proxy cannot reach our own machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the sockets back."""
        self._http.close()

    def get(self, path: str, **params: str | int) -> Any:
        """Read; tried again where the server stumbles.

        Raises:
            ServiceError: refused, or no answer after three attempts.
        """
        for attempt in range(_READ_ATTEMPTS):
            try:
                return self._send("GET", path, params=params).json()
            except UncertainError as err:
                if attempt + 1 == _READ_ATTEMPTS:
                    raise ServiceError(str(err)) from err
                logger.warning("%s; reading again", err)
                time.sleep(_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")

    def server_time(self) -> datetime:
        """The server's clock, whole seconds, never ahead of it.

        Raises:
            ServiceError: no answer.
        """
        date = self._send("GET", "/api/version").headers.get("Date")
        if date is None:
            raise ServiceError(f"{self.url} answers without a Date header; check the address")
        return parsedate_to_datetime(date).astimezone(UTC)

    def write(self, method: str, path: str, body: Any = None, *, timeout_s: float | None = None) -> Any:
        """Send once; ``timeout_s`` replaces the connection's.

        Raises:
            ServiceError: refused; nothing was done.
            UncertainError: no answer, or the server failed on the way.
        """
        answer = self._send(method, path, json=body, timeout_s=timeout_s)
        return answer.json() if answer.content else None

    def _send(
        self, method: str, path: str, *, params: Any = None, json: Any = None, timeout_s: float | None = None
    ) -> httpx.Response:
        extra: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        try:
            answer = self._http.request(method, path, params=params, json=json, **extra)
        except (httpx.ConnectError, httpx.ConnectTimeout) as err:
            raise ServiceError(
                f"Label Studio does not answer at {self.url}; check that it runs there"
            ) from err
        except httpx.HTTPError as err:
            raise UncertainError(
                f"Label Studio at {self.url} gave no answer to {method} {path} ({type(err).__name__})"
            ) from err
        if answer.is_success:
            return answer
        raise self._error(answer.status_code, method, path)

    def _error(self, status: int, method: str, path: str) -> ServiceError:
        call = f"{method} {path}"
        if status in (401, 403):
            return _refused(self.url, status)
        if status >= 500 or status in (408, 409, 429):
            return UncertainError(f"Label Studio at {self.url} failed on {call} ({status}); see its log")
        if status == httpx.codes.NOT_FOUND:
            return NotFoundError(f"Label Studio at {self.url} knows nothing at {path} (404)")
        return ServiceError(f"Label Studio at {self.url} refuses {call} ({status}); see its log")
