"""The TLS options of `REDIS_URL`: their files, and what a server says of our certificate."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ADD_CERTIFICATE = "add ssl_certfile and ssl_keyfile to REDIS_URL"
CHECK_CERTIFICATE = "check that ssl_certfile in REDIS_URL comes from a CA that Redis trusts"


def refused_certificate(error: BaseException) -> tuple[str, str] | None:
    """Explains TLS alerts about our certificate, with a hint; None if the error is another.

    In TLS 1.3, the server's alert arrives only once the client takes itself for connected.
    """
    cause = system_error(error)
    alert = str(cause.reason) if isinstance(cause, ssl.SSLError) else ""
    if "ALERT_CERTIFICATE_REQUIRED" in alert:
        return "asks for a client certificate", ADD_CERTIFICATE
    if found := re.search(r"ALERT_(UNKNOWN_CA|\w*CERTIFICATE\w*)", alert):
        reason = found[1].lower().replace("_", " ").replace(" ca", " CA")
        return f"refuses our client certificate: {reason}", CHECK_CERTIFICATE
    return None


def spoiled_file(options: Mapping[str, Any]) -> str | None:
    """Returns what is wrong with a file that the TLS options name; None if they can be used."""
    named = {name: options.get(f"ssl_{name}") for name in ("ca_certs", "certfile", "keyfile")}
    text = {}
    for name, path in named.items():
        try:
            text[name] = Path(path).read_bytes() if path else b""
        except OSError as error:
            reason = (error.strerror or "").lower()
            return f"the file of ssl_{name}, {path}, can't be read: {reason}"
    key = "keyfile" if named["keyfile"] else "certfile"
    if named["keyfile"] and not named["certfile"]:
        return "ssl_keyfile needs ssl_certfile, the certificate that belongs to the key"
    for name in ("ca_certs", "certfile"):
        try:
            if named[name]:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(named[name])
        except ssl.SSLError:
            return f"the file of ssl_{name}, {named[name]}, holds no certificate in PEM format"
    try:
        if named["certfile"]:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
                named["certfile"], named["keyfile"], options.get("ssl_password") or ""
            )
    except ssl.SSLError as error:
        if "MISMATCH" in str(error.reason):
            return f"the key in {named[key]} does not belong to the certificate of ssl_certfile"
        if b"ENCRYPTED" in text[key]:
            state = "not the password of" if options.get("ssl_password") else "missing for"
            return f"ssl_password is {state} the key in {named[key]}"
        return f"the file of ssl_{key}, {named[key]}, holds no private key in PEM format"
    return None


def system_error(error: BaseException) -> OSError | None:
    """Returns the system's error that caused an error of the client."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause
