"""Targets: each names one Docora by a file with its settings."""

import os
import re
from pathlib import Path

from docora_ops.errors import ConfigurationError, UsageError
from docora_ops.text import mask

SYSTEM_FOLDER = Path("/etc/docora-ops/targets")
_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def settings_source(
    env_file: Path | None = None, target: str | None = None
) -> tuple[Path | None, str | None]:
    """Returns the env file or the target to read. What is given wins over both variables.

    Raises UsageError for an env file and a target.
    """
    names = "--env-file and --target"
    if env_file is None and target is None:
        names = "DOCORA_OPS_ENV_FILE and DOCORA_OPS_TARGET"
        file, target = (os.environ.get(name) or None for name in names.split(" and "))
        env_file = Path(file) if file else None
    if env_file is not None and target is not None:
        raise UsageError(f"{names} can't be combined", hint="remove one of them")
    return env_file, target


def own_folder() -> Path:
    """Returns the user's folder of target files, which wins over that of the system."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    if not config.startswith("/"):  # to be ignored, by its specification
        config = f"{os.environ.get('HOME', '')}/.config"
    return Path(config, "docora-ops", "targets")


def target_files() -> dict[str, Path]:
    """Returns the file of each target by name, sorted. Raises ConfigurationError."""
    found: dict[str, Path] = {}
    own = own_folder()
    for folder in (SYSTEM_FOLDER, own):
        try:
            files = [each for each in folder.iterdir() if each.suffix == ".env"]
        except (FileNotFoundError, NotADirectoryError):  # most often there is none
            continue
        except OSError as error:
            if folder is not own:
                continue
            # Files of the system with the same names may lead to other servers.
            raise ConfigurationError(
                f"the folder of your targets {own} can't be read: {error.strerror}",
                hint="check its owner and its mode",
            ) from None
        found |= {each.stem: each for each in files if _NAME.fullmatch(each.stem)}
    return dict(sorted(found.items()))


def target_file(name: str) -> Path:
    """Returns the file of the target. Raises ConfigurationError."""
    files = target_files()
    if name in files:
        return files[name]
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{mask(name)[:100]!r} can't be the name of a target",
            hint="use letters, digits, . _ and -, such as prod for the file prod.env",
        )
    from difflib import get_close_matches  # seldom needed, and slow to import

    hint = f"the targets are {', '.join(files)}" if files else f"put {name}.env into {own_folder()}"
    if near := get_close_matches(name, files, 1):
        hint = f"did you mean {near[0]}? {hint[0].upper()}{hint[1:]}"
    raise ConfigurationError(f"there is no target {name!r}", hint=hint)
