"""Decrypts the values that Docora stores encrypted."""

from __future__ import annotations

import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from docora_ops.errors import SnapshotError

_FORM = re.compile(r"([0-9a-f]{32}):([0-9a-f]{32}):((?:[0-9a-f]{2})*)", re.IGNORECASE)


def decrypt(text: str, key: bytes, name: str) -> str:
    """Decrypts `iv:tag:ciphertext`, each in hex: AES-256-GCM with an iv of 16 bytes.

    Raises SnapshotError, with `name` and without any part of the text.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise SnapshotError(f"{name} is not in the form iv:tag:ciphertext")
    iv, tag, ciphertext = (bytes.fromhex(part) for part in found.groups())
    try:
        return AESGCM(key).decrypt(iv, ciphertext + tag, None).decode()
    except (InvalidTag, UnicodeDecodeError):
        raise SnapshotError(
            f"{name} can't be decrypted: it was encrypted with another ENCRYPTION_KEY"
        ) from None
