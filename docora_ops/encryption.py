"""Decrypts Docora's secrets: AES-256-GCM in the form `iv:tag:ciphertext`, all in hex.

Importing this module needs the extra `worker`.
"""

import re
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from docora_ops.errors import DocoraOpsError, HostFaultError, SnapshotError

_FORM = re.compile(r"([0-9a-f]{32}):([0-9a-f]{32}):((?:[0-9a-f]{2})*)", re.IGNORECASE)


def decrypt(text: str, key: bytes, name: str) -> str:
    """Decrypts a text. The message of an error contains no part of the text.

    Raises SnapshotError if the text is malformed, HostFaultError if the key is another one.

    name: what to call the text in the error message.
    """
    parts = _FORM.fullmatch(text)
    if parts is None:
        raise SnapshotError(f"{name} is not in the form iv:tag:ciphertext")
    iv, tag, ciphertext = map(bytes.fromhex, parts.groups())
    try:
        return AESGCM(key).decrypt(iv, ciphertext + tag, None).decode()
    except (InvalidTag, UnicodeDecodeError):
        raise HostFaultError(
            f"{name} can't be decrypted: it was encrypted with another ENCRYPTION_KEY"
        ) from None


def count_foreign(texts: Iterable[str], key: bytes) -> int:
    """Returns the number of encrypted texts if the key decrypts none; 0 if it decrypts any.

    Ignores texts that are not in the form `iv:tag:ciphertext`.
    """
    count = 0
    for text in filter(_FORM.fullmatch, texts):
        try:
            decrypt(text, key, "")
        except DocoraOpsError:
            count += 1
        else:
            return 0
    return count
