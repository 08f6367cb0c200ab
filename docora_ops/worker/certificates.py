"""Decides which authorities may have issued the certificates of apps and of git servers."""

import os
import ssl
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

from docora_ops.errors import SnapshotError
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker.log import log

HINT = (
    "if a private authority has issued it, set NODE_EXTRA_CA_CERTS, or for git GIT_SSL_CAINFO, to "
    "a file with the authority's certificate: docora-ops help workers"
)
_VARIABLES = ("NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # BSD, macOS
)
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
"""OpenSSL's codes for a certificate whose issuer is not trusted."""


def use_settings(settings: Settings) -> None:
    """Sets the variables of an env file in this process: OpenSSL and git read nothing else.

    Warns if the file of NODE_EXTRA_CA_CERTS cannot be used.
    """
    for name in _VARIABLES:
        if value := getattr(settings, name.lower()):
            os.environ[name] = value
    _extra_file()


def tls_context() -> ssl.SSLContext:
    """Returns the context for connections to apps."""
    places = (os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    return _tls_context(_extra_file(), *places)


def hint_for(error: ssl.SSLCertVerificationError) -> str | None:
    """Returns what to do about a certificate whose issuer is not trusted."""
    return HINT if error.verify_code in _UNKNOWN_AUTHORITY else None


def file_for_git(folder: Path) -> Path | None:
    """Returns a file with the system's authorities and those of NODE_EXTRA_CA_CERTS.

    Writes it into the folder. Returns None if git needs no other file than its own default, or if
    GIT_SSL_CAINFO names one. Raises SnapshotError.
    """
    extra = _extra_file()
    if extra is None or os.environ.get("GIT_SSL_CAINFO"):
        return None
    system = [path for path in map(Path, _SYSTEM_FILES) if path.is_file()][:1]
    try:
        content = b"\n".join(path.read_bytes() for path in (*system, Path(extra)))
        # Other workers of this folder may have other settings.
        path = folder.absolute() / f"authorities-{sha256(content).hexdigest()[:16]}.pem"
        if not path.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(content)
            Path(file.name).replace(path)
    except OSError as error:
        raise SnapshotError(
            f"the authorities for git can't be copied below REPOS_BASE_PATH: {error.strerror}: "
            f"{error.filename}"
        ) from error
    return path


@cache
def _tls_context(extra: str | None, *_places: str | None) -> ssl.SSLContext:
    """Reads the certificates of all authorities, which takes longer than to connect."""
    context = ssl.create_default_context()
    # Python 3.13 refuses certificates of private authorities that Node takes.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if extra is not None:
        context.load_verify_locations(extra)
    return context


def _extra_file() -> str | None:
    """Returns the file of NODE_EXTRA_CA_CERTS, if it can be used."""
    path = os.environ.get("NODE_EXTRA_CA_CERTS")
    return path if path and _is_usable(path) else None


@cache
def _is_usable(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        is_read = isinstance(error, ssl.SSLError)
        reason = "it holds no certificates in PEM form" if is_read else error.strerror
        log.warning("NODE_EXTRA_CA_CERTS is ignored: %s: %s", inert(path), reason)
        return False
    return True
