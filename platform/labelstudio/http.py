"""Requests to Label Studio: its two kinds of key, one clear error each, and nothing ever sent twice blindly.

Label Studio's own client retries POST after a time-out, and imports then double. Here a request is repeated
only where it surely took no effect: a read, one that no connection was had for, one that the server put off
(429). A write whose fate is unknown raises `UncertainError`, and the caller asks the server what it has.
Messages name the call and the status, never what was sent or answered.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import ssl
import time
from collections.abc import Generator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlparse

import httpx
from pydantic import SecretStr

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.labelstudio.config import KEY_VARIABLE

logger = logging.getLogger(__name__)

_READ_ATTEMPTS = 3
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0


class UncertainError(ServiceError):
    """A write was sent and no answer tells whether it took effect."""


class NotFoundError(ServiceError):
    """No such project, task or page."""


class TooLargeError(ServiceError):
    """The server, or what stands before it, takes no body of this size; nothing was done."""


class AwayError(ServiceError):
    """The server is not there, or puts us off; nothing was done, and the same call may succeed later.

    Args:
        message: What happened.
        retry_after_s: How long the server asks to wait, where it does.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class _TokenAuth(httpx.Auth):
    """A personal access token is exchanged for five-minute access tokens; a legacy token goes as it is."""

    requires_response_body = True

    def __init__(self, url: str, key: SecretStr) -> None:
        self._url, self._key = url, key
        self._is_personal = key.get_secret_value().count(".") == 2  # a JWT has three parts
        self._access: str | None = None

    def _refresh(self) -> Generator[httpx.Request, httpx.Response, None]:
        body = {"refresh": self._key.get_secret_value()}
        answer = yield httpx.Request("POST", f"{self._url}/api/token/refresh/", json=body)
        if answer.status_code in (400, 401, 403):
            raise _refused(self._url, answer.status_code)
        if answer.status_code >= 500 or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise _put_off(self._url, "the exchange of the key", answer)
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


def _put_off(url: str, call: str, answer: httpx.Response) -> AwayError:
    wait = answer.headers.get("Retry-After", "")
    return AwayError(
        f"Label Studio at {url} puts off {call} ({answer.status_code}); see its log",
        float(wait) if wait.isdigit() else None,
    )


def _is_loopback(url: str) -> bool:
    host = urlparse(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trust(ca_file: Path | None) -> ssl.SSLContext | bool:
    """Whose certificates are believed: the file's, those of ``SSL_CERT_FILE``, or certifi's."""
    file = ca_file or os.environ.get("SSL_CERT_FILE")  # httpx reads it only where it may also use a proxy
    if not file:
        return True
    try:
        return ssl.create_default_context(cafile=str(file))
    except OSError as err:  # an ssl.SSLError is one
        raise ConfigError(
            f"{file}, named by labelstudio.ca_file or SSL_CERT_FILE, cannot be read as certificates"
        ) from err


class Connection:
    """A logged-in connection; use as a context manager or `close` it.

    Args:
        url: Address of Label Studio, with its sub-path where it has one.
        key: Personal access token or legacy token.
        timeout_s: Longest wait for an answer, seconds.
        patience_s: How long a server that answered before is waited for when it is away, seconds.
        ca_file: Certificates of an authority that the system does not know.

    Raises:
        ConfigError: ``ca_file`` cannot be used.
    """

    def __init__(
        self,
        url: str,
        key: SecretStr,
        *,
        timeout_s: float,
        patience_s: float = 0,
        ca_file: Path | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._patience_s, self._answered = patience_s, False
        self._http = httpx.Client(
            base_url=self.url,
            auth=_TokenAuth(self.url, key),
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10)),
            trust_env=not _is_loopback(self.url),  # a proxy cannot reach our own machine
            verify=_trust(ca_file),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the sockets back."""
        self._http.close()

    def get(self, path: str, **params: str | int) -> Any:
        """Read; tried again where the server stumbles, three times and for as long as ``patience_s``.

        Raises:
            ServiceError: refused, or no answer.
        """
        begin, num_failures = time.monotonic(), 0
        while True:
            try:
                return self._send("GET", path, params=params).json()
            except UncertainError as err:
                num_failures += 1
                patience_s = self._patience_s if self._answered else 0
                if num_failures >= _READ_ATTEMPTS and time.monotonic() - begin >= patience_s:
                    raise ServiceError(str(err)) from err
                logger.warning("%s; reading again", err)
                time.sleep(min(_PAUSE_S * 2 ** (num_failures - 1), _LONGEST_PAUSE_S))

    def server_time(self) -> datetime:
        """The server's clock, whole seconds, never ahead of it.

        Raises:
            ServiceError: no answer.
        """
        date = self._send("GET", "/api/version").headers.get("Date")
        if date is None:
            raise ServiceError(f"{self.url} answers without a Date header; check the address")
        return parsedate_to_datetime(date).astimezone(UTC)

    def write(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        timeout_s: float | None = None,
        **params: str | int,
    ) -> Any:
        """Send; ``timeout_s`` replaces the connection's.

        Raises:
            ServiceError: refused; nothing was done.
            TooLargeError: the body is; nothing was done.
            UncertainError: no answer, or the server failed on the way.
        """
        answer = self._send(method, path, params=params or None, json=body, timeout_s=timeout_s)
        return answer.json() if answer.content else None

    def _send(
        self, method: str, path: str, *, params: Any = None, json: Any = None, timeout_s: float | None = None
    ) -> httpx.Response:
        """Send, and again for as long as `patience_s` allows while it surely took no effect."""
        begin, pause = time.monotonic(), _PAUSE_S
        while True:
            try:
                answer = self._send_once(method, path, params=params, json=json, timeout_s=timeout_s)
            except AwayError as err:
                wait = pause if err.retry_after_s is None else err.retry_after_s
                if not self._answered or time.monotonic() - begin + wait > self._patience_s:
                    raise
                logger.warning("%s; waiting %.1f s", err, wait)
                time.sleep(wait)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                return answer

    def _send_once(
        self, method: str, path: str, *, params: Any, json: Any, timeout_s: float | None
    ) -> httpx.Response:
        extra: dict[str, Any] = {} if timeout_s is None else {"timeout": timeout_s}
        try:
            answer = self._http.request(method, path, params=params, json=json, **extra)
        except (httpx.ConnectError, httpx.ConnectTimeout) as err:
            if "CERTIFICATE_VERIFY_FAILED" in str(err):
                raise ServiceError(
                    f"the certificate of {self.url} is not trusted; name its authority's file in "
                    "labelstudio.ca_file or SSL_CERT_FILE"
                ) from err
            raise AwayError(f"Label Studio does not answer at {self.url}; check that it runs there") from err
        except httpx.HTTPError as err:
            raise UncertainError(
                f"Label Studio at {self.url} gave no answer to {method} {path} ({type(err).__name__})"
            ) from err
        if answer.is_success:
            self._answered = True
            return answer
        raise self._error(answer, f"{method} {path}", path)

    def _error(self, answer: httpx.Response, call: str, path: str) -> ServiceError:
        status = answer.status_code
        if status in (401, 403):
            return _refused(self.url, status)
        if status == httpx.codes.TOO_MANY_REQUESTS:
            self._answered = True
            return _put_off(self.url, call, answer)
        if status >= 500 or status in (408, 409):
            return UncertainError(f"Label Studio at {self.url} failed on {call} ({status}); see its log")
        if status == httpx.codes.NOT_FOUND:
            return NotFoundError(f"Label Studio at {self.url} knows nothing at {path} (404)")
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return TooLargeError(f"Label Studio at {self.url} finds {call} too large (413)")
        return ServiceError(f"Label Studio at {self.url} refuses {call} ({status}); see its log")
