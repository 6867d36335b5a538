"""``sonoloop serve``: the champion behind an OpenAI-compatible door, until it is told to stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console

from sonoloop.platform import logs, registry
from sonoloop.platform.cluster import choose_authentication, joins_cluster
from sonoloop.platform.errors import ConfigError
from sonoloop.platform.labelstudio.config import api_key
from sonoloop.platform.settings import read_settings
from sonoloop.platform.workspace import store_of
from sonoloop.serve.config import KEY_VARIABLE, ServeConfig, ServeSettings, required_key

console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def serve(
    config: Annotated[
        str, typer.Option("--config", "-c", help="TOML file: a path or an s3:// URI.")
    ] = "sonoloop.toml",
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Instead of serve.port.")] = None,
) -> None:
    """Answer ad hoc questions with the champion (OpenAI-compatible)."""
    settings = read_settings(ServeSettings, config)
    logs.follow(settings.log)
    if port is not None:
        settings = settings.model_copy(update={"serve": settings.serve.model_copy(update={"port": port})})
    key = required_key()
    if settings.serve.drafts is not None and not joins_cluster():
        api_key()
    workspace = store_of(settings.workspace, settings.s3)
    workspace.check()
    version = registry.resolve(workspace, settings.model.name, "champion")
    _require_free_port(settings)
    choose_authentication()
    with suppress(KeyboardInterrupt):
        _run(settings, version, key)


def _run(settings: ServeSettings, version: str, key: str) -> None:
    """Start, wait to be told to stop, and end what was started; told while starting, it ends that."""
    from sonoloop.serve import running  # loads Ray, which reads once how to authenticate

    _interrupt_on_signals()
    console.print("serve: starting Ray")
    with running.ray_session(settings):
        _interrupt_on_signals()  # again: Ray's own handler of SIGTERM would abort the process
        if not settings.serve.is_local:
            _warn_of_others(settings.serve)
        console.print(f"serve: loading {version}")
        with running.served(settings, version, key) as url:
            _introduce(url, version, drafts=settings.serve.drafts is not None)
            with suppress(KeyboardInterrupt):
                _follow_champion(settings, version)
            console.print("serve: stopping")


def _follow_champion(settings: ServeSettings, version: str) -> None:
    """Serve what the registry calls the champion: look every few seconds, and at once on SIGHUP."""
    from sonoloop.serve.rolling import Rolling

    look_now = threading.Event()
    if not sys.stderr.isatty():  # in a terminal SIGHUP says that it was closed
        signal.signal(signal.SIGHUP, lambda *_: look_now.set())
    rolling = Rolling(settings, version)
    while True:
        look_now.wait(settings.serve.poll_s)
        look_now.clear()
        if changed := rolling.look():
            console.print(f"serve: {changed} answers now")


def _introduce(url: str, version: str, *, drafts: bool) -> None:
    where = " on the Ray head's machine" if joins_cluster() else ""
    console.print(
        f"serve: {version} answers at {url}/v1{where}; stop with Ctrl-C. Ask it about an image.png:\n"
    )
    image = '{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}'
    text = '{"type":"text","text":"Write the report of this ultrasound image."}'
    body = f'{{"model":"{version}","messages":[{{"role":"user","content":[{image},{text}]}}]}}'
    # printf is the shell's own: a large image fits, where an argument of curl may have 128 KiB only
    console.print(
        f"  printf '{body}' \"$(base64 -w0 image.png)\" | curl -s {url}/v1/chat/completions "
        f'-H "Authorization: Bearer ${KEY_VARIABLE}" -d @-\n'
    )
    if drafts:
        console.print(
            f"serve: drafts for Label Studio: connect {url} there as a model, with basic authentication, any "
            f"user name and the value of {KEY_VARIABLE} as the password\n"
        )


def _warn_of_others(config: ServeConfig) -> None:
    way = "under TLS" if config.tls_certificate else "WITHOUT TLS, as plain_http says"
    console.print(f"serve: WARNING: {config.host}:{config.port} can be reached from other machines, {way}")


def _require_free_port(settings: ServeSettings) -> None:
    """Refuse a busy port before anything starts; where Ray is elsewhere, that port cannot be seen."""
    if joins_cluster():
        return
    config: ServeConfig = settings.serve
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
    except OSError as err:
        raise ConfigError(f"serve.host {config.host} is no address of this machine") from err
    family, kind, protocol, _, place = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(place)
        except OSError as err:
            raise ConfigError(
                f"cannot listen on {config.host}:{config.port} ({os.strerror(err.errno or 0)}); stop what "
                "holds it, or choose another with --port"
            ) from err


def _interrupt_on_signals() -> None:
    """SIGTERM, like SIGINT, unwinds the stack, so that what was started is stopped."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
