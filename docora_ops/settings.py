"""Settings from the environment or a file, under Docora's own names where there are any."""

import math
import os
import re
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from docora_ops.errors import ConfigurationError
from docora_ops.links import Backend
from docora_ops.text import mask

RESULT_TTL = 86_400  # seconds that RQ keeps a finished job
FAILURE_TTL = 7 * 86_400  # seconds that RQ keeps a failed job
LONGEST_RETRY_DELAY = 86_400  # seconds; a delay doubled without a limit would exceed any timer
LEAST_OVERDUE = 900  # seconds; DOCORA_OPS_OVERDUE_AFTER is at least this by default
_TEN_YEARS_IN_MS = 10 * 365 * 86_400_000

_SECRETS_DIR = Path("/run/secrets")

_SCHEMES = {
    "database_url": ("postgres", "postgresql"),
    "redis_url": ("redis", "rediss", "unix"),
}

# Options of node-pg, and their equivalents in libpq.
_AS_LIBPQ = {
    "sslmode=no-verify": "sslmode=require",
    "ssl=true": "sslmode=require",
    "ssl=false": "sslmode=disable",
}
# Options to leave out. All others are passed on, so that the driver refuses an unknown one, which
# may be misspelt, or part of a password.
_LEFT_OUT = frozenset(
    # Options of node-pg and ioredis.
    {"allowExitOnIdle", "keepAlive", "max", "uselibpqcompat"}
    | {"connectTimeout", "enableReadyCheck", "family", "maxRetriesPerRequest"}
    # Options of Prisma, which node-pg ignores.
    | {"connection_limit", "pgbouncer", "pool_timeout", "schema"}
    # Options of redis-py that would override ours.
    | {"client_name", "decode_responses", "encoding", "encoding_errors", "protocol", "retry"}
    | {"retry_on_error", "socket_connect_timeout", "socket_timeout"}
)


class Settings(BaseSettings):
    """The settings in the environment or a file. Times without a unit are in seconds."""

    model_config = SettingsConfigDict(
        alias_generator=str.upper,
        case_sensitive=True,
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        # Rust's engine takes as long to compile the patterns as the rest of the model.
        regex_engine="python-re",
    )

    database_url: SecretStr | None = None
    redis_url: SecretStr = SecretStr("redis://localhost:6379")
    max_retry_attempts: int = Field(default=5, ge=1, le=1000)
    retry_base_delay_ms: int = Field(default=1000, ge=0, le=86_400_000)
    scan_interval_ms: int = Field(default=60_000, ge=1, le=_TEN_YEARS_IN_MS)
    rescan_interval_ms: int = Field(default=300_000, ge=0, le=_TEN_YEARS_IN_MS)
    encryption_key: SecretStr | None = None
    repos_base_path: Path = Path("/data/repos")
    circuit_breaker_threshold: int = Field(default=5, ge=1, le=1_000_000)
    circuit_breaker_cooldown_ms: int = Field(default=1_800_000, ge=0, le=31_536_000_000)
    binary_chunk_threshold_bytes: int = Field(default=1_048_576, ge=0, le=2**40)
    binary_chunk_size_bytes: int = Field(default=524_288, ge=1, le=2**30)
    scan_concurrency: int = Field(default=5, ge=1, le=256)
    node_extra_ca_certs: str | None = None
    git_ssl_cainfo: str | None = None
    ssl_cert_file: str | None = None
    ssl_cert_dir: str | None = None

    backend: Backend = Field(default=Backend.AUTO, alias="DOCORA_OPS_BACKEND")
    job_timeout: int = Field(default=3600, alias="DOCORA_OPS_JOB_TIMEOUT", ge=1, le=2_592_000)
    connect_timeout: int = Field(default=5, alias="DOCORA_OPS_CONNECT_TIMEOUT", ge=1, le=3600)
    statement_timeout: int = Field(
        default=30, alias="DOCORA_OPS_STATEMENT_TIMEOUT", ge=1, le=86_400
    )
    drift_grace: int = Field(default=5, alias="DOCORA_OPS_DRIFT_GRACE", ge=0, le=3600)
    overdue_after: int | None = Field(
        default=None, alias="DOCORA_OPS_OVERDUE_AFTER", ge=1, le=31_536_000
    )
    git_protocols: str = Field(
        default="https",
        alias="DOCORA_OPS_GIT_PROTOCOLS",
        pattern=r"^[a-z0-9+]+(,[a-z0-9+]+)*\Z",
    )
    git_timeout: int = Field(default=1800, alias="DOCORA_OPS_GIT_TIMEOUT", ge=1, le=2_592_000)

    @field_validator("database_url", "redis_url")
    @classmethod
    def _adapt_url(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        """Checks a URL, and adapts its options to libpq or redis-py. Raises ValueError."""
        if secret is None:
            return None
        text, schemes = secret.get_secret_value(), _SCHEMES[str(info.field_name)]
        if text.startswith(("'", '"', "`")):  # which `docker run --env-file` keeps
            raise ValueError("begins with a quotation mark, which is not part of a URL: remove it")
        unescaped = "has a character that must be percent-encoded, such as @ / ? # [ or ]"
        try:
            text.encode()
            parts = urlsplit(text)
        except ValueError:
            raise ValueError(unescaped) from None
        if parts.scheme not in schemes:
            raise ValueError(f"must look like {' or '.join(f'{name}://…' for name in schemes)}")
        # If @, /, ? or # is unescaped, a part of the password would be shown as the host.
        options = [option for option in parts.query.split("&") if "=" not in option]
        if parts.netloc.count("@") > 1 or "@" in parts.path + "".join(options) or parts.fragment:
            raise ValueError(unescaped)
        if parts.scheme in {"redis", "rediss"} and not re.fullmatch(r"(/[0-9]*)?", parts.path):
            raise ValueError("may have nothing after the host and port but / and a number")
        # As in ioredis, the database in the path wins over the option `db`.
        path_wins = parts.scheme != "unix" and re.search(r"/\d+\Z", parts.path)
        left_out = _LEFT_OUT | ({"db"} if path_wins else set())
        options = [_AS_LIBPQ.get(option, option) for option in parts.query.split("&")]
        kept = [text for text in options if text and text.partition("=")[0] not in left_out]
        return SecretStr(text.partition("?")[0] + ("?" + "&".join(kept) if kept else ""))

    def hurried(self, seconds: int) -> Self:
        """Returns a copy that waits at most `seconds` to connect, and for each server reply."""
        names = ("connect_timeout", "statement_timeout")
        return self.model_copy(update={name: min(seconds, getattr(self, name)) for name in names})

    def require_database_url(self) -> SecretStr:
        """Returns the database URL. Raises ConfigurationError if it is not set."""
        if self.database_url is None:
            raise ConfigurationError(
                "DATABASE_URL is not set",
                hint="name Docora's own env file with --env-file, or set it to "
                "postgres://HOST/DATABASE in the environment; to try docora-ops without a Docora: "
                "docora-ops demo",
            )
        return self.database_url

    def require_encryption_key(self) -> bytes:
        """Returns the key's 32 bytes. Raises ConfigurationError if it is not set or not valid."""
        text = self.encryption_key.get_secret_value() if self.encryption_key else ""
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
            raise ConfigurationError(
                f"ENCRYPTION_KEY is not {'a key of 64 hex digits' if text else 'set'}",
                hint="set it to Docora's own key of 64 hex digits, or pass Docora's own file "
                "with --env-file",
            )
        return bytes.fromhex(text)

    @property
    def overdue_after_seconds(self) -> int:
        """Returns the seconds without a good scan after which a link is overdue.

        Without DOCORA_OPS_OVERDUE_AFTER: three rescan intervals and a scan interval, but at least
        15 minutes.
        """
        interval = math.ceil((3 * self.rescan_interval_ms + self.scan_interval_ms) / 1000)
        return self.overdue_after or max(interval, LEAST_OVERDUE)

    @property
    def retry_delays(self) -> list[int]:
        """Returns the delays before further tries, in whole seconds: doubling, up to a day."""
        base = self.retry_base_delay_ms / 1000
        delays = (math.ceil(base * 2**attempt) for attempt in range(self.max_retry_attempts - 1))
        return [min(delay, LONGEST_RETRY_DELAY) for delay in delays]


def load_settings(env_file: Path | None = None) -> Settings:
    """Reads the settings from the environment, an env file, and files that are named as variables.

    The environment wins over the env file, which wins over the files in DOCORA_OPS_SECRETS_DIR
    (default: /run/secrets, if it is there). Names are case-sensitive, as in Docora.

    env_file: if it is None, DOCORA_OPS_ENV_FILE is used.

    Raises ConfigurationError with the name of each unusable variable, but never its value.
    """
    file = str(env_file or os.environ.get("DOCORA_OPS_ENV_FILE") or "")
    folder = Path(os.environ.get("DOCORA_OPS_SECRETS_DIR") or _SECRETS_DIR)
    # If a URL was given by mistake, Path has dropped one of its slashes.
    place = f"env file {mask(re.sub(':/+', '://', file))[:200]}"
    to_check = "check its path, its owner and its mode"
    # pydantic would ignore a missing file.
    if file and (Path(file).is_dir() or not os.access(file, os.R_OK)):
        raise ConfigurationError(f"{place} can't be read", hint=to_check)
    if folder != _SECRETS_DIR and not folder.is_dir():
        raise ConfigurationError(f"DOCORA_OPS_SECRETS_DIR {folder} is no folder", hint=to_check)
    is_readable = os.access(folder, os.R_OK | os.X_OK)
    sources: dict[str, Any] = {
        "_env_file": file or None,
        "_secrets_dir": folder if is_readable else None,
    }
    try:
        return Settings(**sources)
    except ValidationError as error:
        problems = "; ".join(
            f"{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_input=False, include_context=False)
        )
        raise ConfigurationError(
            f"unusable settings: {problems}", hint="correct the environment or the env file"
        ) from None
    except SettingsError as error:
        reason = getattr(error.__cause__, "strerror", "it is no text")
        raise ConfigurationError(
            f"a file in {folder} can't be read: {reason}", hint=to_check
        ) from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "it is no text")
        raise ConfigurationError(f"{place} can't be read: {reason}", hint=to_check) from None
