"""The certificate authorities that git and deliveries trust."""

import os
import re
import ssl
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from docora_ops.errors import HostFaultError
from docora_ops.settings import Settings
from docora_ops.text import inert
from docora_ops.worker.host import FOLDER, words_of
from docora_ops.worker.log import log

_VARIABLES = ("NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SYSTEM_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # BSD, macOS
)


def use_authorities(settings: Settings) -> None:
    """Makes this process, and git, trust the certificate authorities that the settings name.

    Sets the environment variables that `_VARIABLES` lists, because OpenSSL and git do not
    read Docora's env file. For git, writes the authorities of the system and of NODE_EXTRA_CA_CERTS
    into one file, unless GIT_SSL_CAINFO is set. If NODE_EXTRA_CA_CERTS can't be used, warns and
    ignores it, as Node does.

    Raises HostFaultError if the file can't be written.
    """
    for name in _VARIABLES:
        if value := getattr(settings, name.lower()):
            os.environ[name] = value
    tls_context.cache_clear()
    if not (extra := os.environ.get("NODE_EXTRA_CA_CERTS")):
        return
    try:
        tls_context()  # cached, so that the file is read once for all jobs
    except OSError as error:
        is_read = isinstance(error, ssl.SSLError)
        reason = "it holds no certificates in PEM form" if is_read else error.strerror
        log.warning("NODE_EXTRA_CA_CERTS is ignored: %s: %s", inert(extra), reason)
        del os.environ["NODE_EXTRA_CA_CERTS"]
        return
    if not os.environ.get("GIT_SSL_CAINFO"):
        folder = settings.repos_base_path.absolute() / FOLDER
        try:
            system = [path for path in map(Path, _SYSTEM_FILES) if path.is_file()][:1]
            content = b"\n".join(path.read_bytes() for path in (*system, Path(extra)))
            # Workers with other settings may share the folder: the name depends on the content.
            path = folder / f"authorities-{sha256(content).hexdigest()[:16]}.pem"
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder) as parts:
                new = Path(parts, path.name)
                new.write_bytes(content)
                new.replace(path)
        except OSError as error:
            raise HostFaultError(
                f"can't write the authorities for git to {str(folder)!r}: {words_of(error)}",
                hint="free space and make the folder writable, or set GIT_SSL_CAINFO",
            ) from error
        os.environ["GIT_SSL_CAINFO"] = str(path)


@cache
def tls_context() -> ssl.SSLContext:
    """Returns the TLS context for connections to apps. Raises OSError for unusable authorities."""
    context = ssl.create_default_context()
    # Python 3.13 refuses certificates of private authorities that Node takes.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if extra := os.environ.get("NODE_EXTRA_CA_CERTS"):
        context.load_verify_locations(extra)
    return context


def certificate_hint(problem: str) -> str:
    """Returns a hint for a problem with a certificate, as reported by OpenSSL or git."""
    if "expired" in problem:
        return (
            "whoever runs the server must renew its certificate, unless this host's clock is wrong"
        )
    if "not yet valid" in problem:
        return "check this host's clock; otherwise whoever runs the server must replace it"
    if re.search("mismatch|not match|subject name", problem):
        return (
            "use the host name that the certificate is for, or have whoever runs the server "
            "replace it"
        )
    return (
        "if a private authority has issued it, set NODE_EXTRA_CA_CERTS, or for git GIT_SSL_CAINFO, "
        "to a file with the authority's certificate: docora-ops help workers"
    )
