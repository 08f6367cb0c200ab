"""What goes into the image, and the services beside Docora's own, without a container engine."""

import re
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from docora_ops.cli.app import app

# What the services need of Docora's docker-compose.yml.
DOCORAS_SERVICES = {"docora-worker", "liquibase", "redis"}
DOCORAS_NETWORK = "docora-network"
DOCORAS_CLONES = "repos_data:/data/repos"

HELD_BACK = {"croniter": "2.0.7"}
"""What bullmq, which only tests need, pins: this croniter needs pytz, newer ones do not."""


def pins(lock: Path) -> dict[str, str]:
    """Returns version, marker and hashes of each package."""
    text = re.sub(r"^ *#.*\n", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(re.findall(r"^([a-z0-9-]+)(==(?:.*\\\n)+.*)", text, re.MULTILINE))


def needed(package: str, extra: str = "") -> set[str]:
    """Returns what the package needs in this environment, and all that this needs in turn."""
    found: set[str] = set()
    for requirement in map(Requirement, requires(package) or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found |= {requirement.name.lower()}
            for each in requirement.extras or {""}:
                found |= needed(requirement.name, each)
    return found


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("requirements", needed("docora-ops", "worker")),
        ("build", {"hatch-fancy-pypi-readme"} | needed("hatch-fancy-pypi-readme")),
    ],
)
def test_the_image_gets_what_it_needs_as_it_was_tested_and_nothing_else(
    repository_root: Path, name: str, packages: set[str]
) -> None:
    tested = pins(repository_root / "requirements.lock")
    locked = pins(repository_root / f".github/image/{name}.lock")
    here = {each for each, pin in locked.items() if ";" not in pin.partition("\n")[0]}
    # Other versions, as in a matrix with the oldest ones, may need other packages.
    installed = {each: version(each) for each in here & packages - set(HELD_BACK)}
    if all(locked[each].startswith(f"=={found} ") for each, found in installed.items()):
        assert here <= packages <= set(locked) | {"pytz"}
    hashes = {each: set(re.findall(r"sha256:\w+", pin)) for each, pin in locked.items()}
    assert hashes == {
        each: set(re.findall(r"sha256:\w+", (locked if each in HELD_BACK else tested)[each]))
        for each in locked
    }


@pytest.mark.parametrize(("package", "pinned"), HELD_BACK.items())
def test_the_image_has_what_pip_users_get_where_a_test_dependency_pins_something_older(
    repository_root: Path, package: str, pinned: str
) -> None:
    tested = pins(repository_root / "requirements.lock")
    locked = pins(repository_root / ".github/image/requirements.lock")
    assert tested[package].startswith(f"=={pinned} ")
    assert Version(locked[package].split()[0].removeprefix("==")) > Version(pinned)
    assert "pytz" not in locked


@pytest.fixture
def services(repository_root: Path) -> dict[str, Any]:
    text = (repository_root / ".github/image/docora-ops.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["services"]
    return found


def test_the_services_fit_docoras_own_and_wait_to_be_asked_for(services: dict[str, Any]) -> None:
    ours = {name: each for name, each in services.items() if name.startswith("docora-ops")}
    assert set(services) - set(ours) <= DOCORAS_SERVICES
    for service in ours.values():
        assert service["profiles"]
        assert service["networks"] == [DOCORAS_NETWORK]
        assert service["env_file"] == [".env"]
        assert set(service.get("depends_on", ())) <= DOCORAS_SERVICES
        assert set(service.get("volumes", ())) <= {DOCORAS_CLONES}


def test_the_services_run_commands_that_exist(services: dict[str, Any]) -> None:
    worker = services["docora-ops-worker"]
    health, schedule = worker["healthcheck"]["test"], services["docora-ops-schedule"]
    assert health[:2] == ["CMD", "docora-ops"]
    for words in (worker["command"], health[2:], schedule["command"]):
        group: Any = typer.main.get_command(app)
        command = group.commands[words[0]]
        command.make_context(words[0], words[1:])
