"""A personal access token of Label Studio, without a browser.

The way a person's browser goes: CSRF cookie, login form, ``POST /api/token/``. The token is a refresh JWT
that Label Studio shows once; while one is valid a second ``POST`` answers 409, so a token that was lost
before it was written down is revoked first. Measured with Label Studio 1.23.
"""

from __future__ import annotations

import httpx

from sonoloop.platform.errors import ServiceError


def _client(url: str, timeout_s: float) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=timeout_s, trust_env=False)  # no proxy towards loopback


def access_token(url: str, refresh_token: str, *, timeout_s: float = 20) -> str | None:
    """A five-minute access token, or ``None`` where Label Studio does not accept the refresh token.

    Raises:
        httpx.HTTPError: Label Studio does not answer.
    """
    with _client(url, timeout_s) as http:
        answer = http.post("/api/token/refresh/", json={"refresh": refresh_token})
    if answer.status_code in (400, 401, 403):
        return None
    return str(answer.raise_for_status().json()["access"])


def _csrf(http: httpx.Client) -> str:
    token = http.cookies.get("csrftoken")
    if token is None:
        raise ServiceError(f"what answers at {http.base_url} is no Label Studio: it sets no CSRF cookie")
    return token


def _log_in(http: httpx.Client, username: str, password: str) -> None:
    http.get("/user/login/").raise_for_status()
    form = {"email": username, "password": password, "csrfmiddlewaretoken": _csrf(http)}
    answer = http.post("/user/login/", data=form)
    if answer.status_code != httpx.codes.FOUND:  # a refused login shows the form again, with 200
        raise ServiceError(
            f"Label Studio at {http.base_url} refuses the recorded login of {username}: the data folder and "
            "labelstudio.json do not belong together; restore the one that fits, or move both away"
        )
    http.headers["X-CSRFToken"] = _csrf(http)


def _revoke_all(http: httpx.Client) -> None:
    for entry in http.get("/api/token/").raise_for_status().json():
        http.post("/api/token/blacklist/", json={"refresh": entry["token"]}).raise_for_status()


def new_token(url: str, username: str, password: str, *, timeout_s: float = 20) -> str:
    """Log in and make a personal access token; earlier ones of this account are revoked.

    Raises:
        ServiceError: the login is refused, or something else than Label Studio answers.
        httpx.HTTPError: Label Studio does not answer, or not as expected.
    """
    with _client(url, timeout_s) as http:
        _log_in(http, username, password)
        answer = http.post("/api/token/")
        if answer.status_code == httpx.codes.CONFLICT:
            _revoke_all(http)
            answer = http.post("/api/token/")
        return str(answer.raise_for_status().json()["token"])
