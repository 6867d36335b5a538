"""Keyed hashes in place of identifiers."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from pydantic import SecretStr

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.identity import KEY_VARIABLE, pseudonym, pseudonym_key

KEY = SecretStr("0123456789abcdef")


def test_a_pseudonym_is_the_head_of_an_hmac_sha256() -> None:
    expected = hmac.new(b"0123456789abcdef", b"patient\x00PID-1", hashlib.sha256).hexdigest()[:24]
    assert pseudonym(KEY, "patient", "PID-1") == expected


def test_kind_key_and_identifier_each_change_it() -> None:
    others = {
        pseudonym(KEY, "patient", "1"),
        pseudonym(KEY, "study", "1"),
        pseudonym(KEY, "patient", "2"),
        pseudonym(SecretStr("fedcba9876543210"), "patient", "1"),
        pseudonym(KEY, "patien", "t\x001"),
    }
    assert len(others) == 5


@pytest.mark.parametrize("value", [None, "", "too short"])
def test_without_a_long_key_nothing_is_hashed_and_the_message_says_how_to_make_one(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY_VARIABLE, value)
    with pytest.raises(ConfigError, match="token_hex") as caught:
        pseudonym_key()
    assert not value or value not in str(caught.value)


def test_the_key_never_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a key of sixteen or more")
    assert "sixteen" not in repr(pseudonym_key())
