"""A Label Studio behind TLS with an own certificate, below a sub-path, and by its older kind of key."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.fault_proxy import Proxy, proxy_before

from sonoloop.platform.errors import ConfigError, ServiceError
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.upload import UploadCounts, upload

pytestmark = pytest.mark.labelstudio


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """A certificate for 127.0.0.1 that nobody but itself vouches for, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    key, file = folder / "key.pem", folder / "certificate.pem"
    request = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*request.split(), "-keyout", key, "-out", file], check=True, capture_output=True)
    file.write_text(file.read_text() + key.read_text())
    return file


@pytest.fixture
def secure(stack_labelstudio, certificate) -> Iterator[Proxy]:
    """Label Studio at https://127.0.0.1:PORT/labelstudio."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with proxy_before(stack_labelstudio.url, sub_path="/labelstudio", tls=tls) as running:
        yield running


def _push_one(config: LabelStudioConfig, key: SecretStr, title: str, case_upload) -> UploadCounts:
    with LabelStudioDoor(config, key) as door:
        project = door.ensure_project(title, build_page())
        return upload(door, project.id, [case_upload("case-1")])


def test_an_own_authority_is_named_in_the_configuration(
    secure, certificate, stack_labelstudio, title, case_upload
) -> None:
    config = LabelStudioConfig(url=secure.endpoint, ca_file=certificate)
    key = SecretStr(stack_labelstudio.api_key)
    assert _push_one(config, key, title, case_upload) == UploadCounts(num_new_tasks=1)
    assert all(secure.asked.values())


def test_an_own_authority_is_named_in_the_environment(
    secure, certificate, stack_labelstudio, title, case_upload, monkeypatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    config, key = LabelStudioConfig(url=f"{secure.endpoint}/"), SecretStr(stack_labelstudio.api_key)
    assert _push_one(config, key, title, case_upload) == UploadCounts(num_new_tasks=1)


def test_a_certificate_that_nobody_vouches_for_is_refused_with_what_to_do(secure, title) -> None:
    with (
        LabelStudioDoor(LabelStudioConfig(url=secure.endpoint), SecretStr("a.b.c")) as door,
        pytest.raises(ServiceError, match=r"is not trusted; .* labelstudio.ca_file or SSL_CERT_FILE"),
    ):
        door.find_project(title)


def test_a_file_without_certificates_is_told(tmp_path) -> None:
    config = LabelStudioConfig(ca_file=tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=r"none\.pem.* cannot be read as certificates"):
        LabelStudioDoor(config, SecretStr("a.b.c"))


def test_a_legacy_key_works_where_the_server_allows_it(stack_labelstudio, title, case_upload) -> None:
    with stack_labelstudio.http() as http:
        allow = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        http.post("/api/jwt/settings", json=allow).raise_for_status()
        try:
            key = SecretStr(http.get("/api/current-user/token").raise_for_status().json()["token"])
            config = LabelStudioConfig(url=stack_labelstudio.url)
            assert _push_one(config, key, title, case_upload) == UploadCounts(num_new_tasks=1)
        finally:
            forbid = {**allow, "legacy_api_tokens_enabled": False}
            http.post("/api/jwt/settings", json=forbid).raise_for_status()
