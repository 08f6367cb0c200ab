"""Decrypts what Docora stores encrypted: AES-256-GCM in the form `iv:tag:ciphertext`, each in hex.

Needs the extra `worker`: without it, the module can't be imported.
"""

import re
from collections.abc import Iterable

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


def count_foreign(texts: Iterable[str], key: bytes) -> int:
    """Counts the texts if they were all encrypted with another key; returns 0 if one was not.

    Ignores texts that are not in the form `iv:tag:ciphertext`, which tell nothing about the key.
    """
    count = 0
    for text in filter(_FORM.fullmatch, texts):
        try:
            decrypt(text, key, "")
        except SnapshotError:
            count += 1
        else:
            return 0
    return count
