"""Settings from the environment or a file, under Docora's own names where there are any."""

import errno
import math
import os
import re
import select
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from docora_ops.errors import ConfigurationError
from docora_ops.jobs import Backend
from docora_ops.text import duration, mask

RESULT_TTL = 86_400  # seconds that RQ keeps a finished job
FAILURE_TTL = 7 * 86_400  # seconds that RQ keeps a failed job
SECOND_LOOK_DELAY = 5  # seconds between the two looks for drift
LONGEST_RETRY_DELAY = 86_400  # seconds; a delay doubled without a limit would exceed any timer
LEAST_OVERDUE = 900  # seconds; DOCORA_OPS_OVERDUE_AFTER is at least this by default
_LARGEST_FILE = 64 * 1024  # bytes of an env file, or of the file with one value
_PATIENCE = 5  # seconds for the writer of a pipe
_TEN_YEARS_IN_MS = 10 * 365 * 86_400_000

_SERVERS = ("DATABASE_URL", "REDIS_URL")
READ_FROM_FILES = (*_SERVERS, "ENCRYPTION_KEY")
"""Variables whose value may be in a file: NAME_FILE is the path of the file with NAME's value."""

_SCHEMES = {
    "database_url": ("postgres", "postgresql"),
    "redis_url": ("redis", "rediss", "unix"),
}

# An assignment by the rules of Docora's dotenv for names, quotes and comments.
_ASSIGNMENT = re.compile(
    r"""
    ^ [^\S\n]* (?: export \s+ )? (?P<name> [A-Za-z0-9_.-]+ ) (?: \s* = \s*? | : \s+? )
    (?P<value>
        \s* (?P<quote> ['"`] ) (?: \\ (?P=quote) | (?! (?P=quote) ) [\s\S] )* (?P=quote)
        | [^\#\n]+
    )?
    \s* (?: \# .* )? $
    """,
    re.VERBOSE | re.MULTILINE,
)

# A line without a value: blank, a comment, or a name alone.
_UNASSIGNED = re.compile(r"\s*(#.*|(export\s+)?[A-Za-z0-9_.-]+\s*)?")

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
        env_ignore_empty=True,
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
    encryption_key_file: SecretStr | None = None  # may hold the key itself by mistake
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
    node_env: str | None = None

    backend: Backend | None = Field(default=None, alias="DOCORA_OPS_BACKEND")  # None: detect it
    job_timeout: int = Field(default=3600, alias="DOCORA_OPS_JOB_TIMEOUT", ge=1, le=2_592_000)
    connect_timeout: int = Field(default=5, alias="DOCORA_OPS_CONNECT_TIMEOUT", ge=1, le=3600)
    statement_timeout: int = Field(
        default=30, alias="DOCORA_OPS_STATEMENT_TIMEOUT", ge=1, le=86_400
    )
    lock_timeout: int = Field(default=5, alias="DOCORA_OPS_LOCK_TIMEOUT", ge=1, le=86_400)
    drift_grace: int = Field(
        default=SECOND_LOOK_DELAY, alias="DOCORA_OPS_DRIFT_GRACE", ge=0, le=3600
    )
    batch_size: int = Field(default=500, alias="DOCORA_OPS_BATCH_SIZE", ge=1, le=1000)
    overdue_after: int | None = Field(
        default=None, alias="DOCORA_OPS_OVERDUE_AFTER", ge=1, le=31_536_000
    )
    git_protocols: str = Field(
        default="https",
        alias="DOCORA_OPS_GIT_PROTOCOLS",
        pattern=r"^[a-z0-9+]+(,[a-z0-9+]+)*\Z",
    )
    git_timeout: int = Field(default=1800, alias="DOCORA_OPS_GIT_TIMEOUT", ge=1, le=2_592_000)
    reserve_slot: bool = Field(default=True, alias="DOCORA_OPS_RESERVE_SLOT")
    heartbeat_file: Path | None = Field(default=None, alias="DOCORA_OPS_HEARTBEAT_FILE")

    _warnings: list[str] = []  # each instance gets a copy

    @property
    def warnings(self) -> list[str]:
        """Returns warnings about the places from which the settings were read."""
        return self._warnings

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

    def hurried(self, seconds: int, *, keeps_set: bool = False) -> Self:
        """Returns a copy that waits at most `seconds` to connect, and for each server reply.

        keeps_set: keep a statement timeout that the user has set.
        """
        names = {"connect_timeout", "statement_timeout"}
        if keeps_set and "statement_timeout" in self.model_fields_set:
            names.remove("statement_timeout")
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
        """Returns the key's 32 bytes. Raises ConfigurationError if it is not set or not valid.

        Reads the file of ENCRYPTION_KEY_FILE once, since it may be a pipe.
        """
        if self.encryption_key_file:
            text = _value_in(self.encryption_key_file.get_secret_value(), "ENCRYPTION_KEY")
            self.encryption_key, self.encryption_key_file = SecretStr(text), None
        text = self.encryption_key.get_secret_value() if self.encryption_key else ""
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
            raise ConfigurationError(
                f"ENCRYPTION_KEY is not {'a key of 64 hex digits' if text else 'set'}",
                hint="set it to Docora's own key of 64 hex digits, or pass Docora's own file "
                "with --env-file",
            )
        return bytes.fromhex(text)

    @property
    def scan_interval(self) -> str:
        """Returns the time between two passes of Docora's scheduler, in words."""
        seconds = math.ceil(self.scan_interval_ms / 1000)
        return "a minute" if seconds == 60 else duration(seconds)  # noqa: PLR2004 - default

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
    """Reads the settings from the environment and from an env file; the environment wins.

    Names of variables are case-sensitive, as in Docora.

    env_file: if it is None, DOCORA_OPS_ENV_FILE is used.

    Raises ConfigurationError with the name of each unusable variable, but never its value.
    """
    if env_file is None and (file := os.environ.get("DOCORA_OPS_ENV_FILE")):
        env_file = Path(file)
    values, warnings = _usable(os.environ, "the environment"), list[str]()
    if env_file:
        # If a URL was given by mistake, Path has dropped one of its slashes.
        place = f"env file {mask(str(env_file).replace(':/', '://'))[:200]}"
        variables = _read(env_file, place)
        in_file = _usable(variables, place)
        values = in_file | values
        replaced = [name for name in _SERVERS if in_file.get(name) not in {None, values.get(name)}]
        if replaced:
            warnings.append(f"{' and '.join(replaced)} of the environment wins over the {place}")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_input=False, include_context=False)
        )
        raise ConfigurationError(
            f"unusable settings: {problems}", hint="correct the environment or the env file"
        ) from None
    settings.warnings.extend(warnings)
    return settings


def _usable(variables: Mapping[str, str], place: str) -> dict[str, str | None]:
    """Returns the settings among the variables, without empty ones.

    Reads DATABASE_URL or REDIS_URL from a file if DATABASE_URL_FILE or REDIS_URL_FILE names one.
    If either ENCRYPTION_KEY or ENCRYPTION_KEY_FILE is set, returns None for the other one, so that
    another place can't add it. Raises ConfigurationError if a variable and its _FILE are both set,
    or if a file is empty or can't be read.

    place: the name of the environment or the file, for errors.
    """
    names = {field.alias for field in Settings.model_fields.values()}
    values: dict[str, str | None] = {
        name: value for name, value in variables.items() if value and name in names
    }
    for name in READ_FROM_FILES:
        path = variables.get(f"{name}_FILE")
        if path and name in values:
            raise ConfigurationError(
                f"{place} has both {name} and {name}_FILE", hint="remove one of them"
            )
        if path and name in _SERVERS:  # only workers must be able to read the file of the key
            values[name] = _value_in(path, name)
    key = {name: values.get(name) for name in ("ENCRYPTION_KEY", "ENCRYPTION_KEY_FILE")}
    return values | key if any(key.values()) else values


def _value_in(path: str, name: str) -> str:
    """Returns the value of a variable from its file.

    Raises ConfigurationError if the file is empty or can't be read.
    """
    # Anything but a path may be the secret itself, set by mistake.
    file = f"{name}_FILE" + (f" {path[:200]}" if path.startswith("/") else "")
    value = _text_of(Path(path), file).rstrip("\r\n")
    if not value:
        raise ConfigurationError(f"{file} is empty", hint=f"write the {name} into it")
    return value


def _read(file: Path, place: str) -> dict[str, str]:
    """Returns the variables in an env file or a pipe, by the rules of Docora's dotenv.

    Raises ConfigurationError if the file can't be read, or if a line is not NAME=VALUE.
    """
    text = _text_of(file, place)
    # A default in place of the unreadable setting could lead to other servers.
    rest = _ASSIGNMENT.sub(lambda assignment: "\n" * assignment[0].count("\n"), text)
    for number, line in enumerate(rest.split("\n"), 1):
        if not _UNASSIGNED.fullmatch(line):
            raise ConfigurationError(
                f"{place} can't be used: line {number} is not NAME=VALUE",
                hint="correct the line, or remove it",
            )
    variables = {}
    for assignment in _ASSIGNMENT.finditer(text):
        value = (assignment["value"] or "").strip()
        if value.startswith('"'):  # dotenv knows two escapes, in double quotes only
            value = value.replace(r"\n", "\n").replace(r"\r", "\r")
        quoted = re.fullmatch(r"(['\"`])(.*)\1", value, re.DOTALL)
        variables[assignment["name"]] = quoted[2] if quoted else value
    return variables


def _text_of(file: Path, name: str) -> str:
    """Returns the text of a regular file, or of a pipe.

    Raises ConfigurationError if the file can't be read or is longer than 64 KiB, or if a pipe does
    not end within 5 s.

    name: the name of the file, for errors.
    """
    try:
        if not (file.is_file() or file.is_fifo() or file.samefile(os.devnull)):
            raise OSError(errno.EINVAL, "it is neither a regular file nor a pipe")
        # Without a writer, a blocking open of a named pipe would never return.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as stream:
            content, end, pipe = b"", time.monotonic() + _PATIENCE, select.poll()
            pipe.register(stream, select.POLLIN)
            while pipe.poll(max(0, end - time.monotonic()) * 1000):
                chunk = stream.read(_LARGEST_FILE + 1)
                content += chunk
                if len(content) > _LARGEST_FILE:
                    raise OSError(errno.EFBIG, f"it is larger than {_LARGEST_FILE // 1024} KiB")
                if not chunk:
                    return content.decode("utf-8-sig")
        raise OSError(errno.ETIMEDOUT, f"the pipe did not end within {_PATIENCE} s")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(
            f"{name} can't be read: {reason or error}",
            hint="check its path, its owner and its mode",
        ) from None
