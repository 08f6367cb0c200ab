"""What the demo prints to be pasted, what it takes from the environment, and how it gives up."""

import os
import re
import shlex
import subprocess

import pytest

from docora_ops.demo.servers import apps
from docora_ops.demo.story import DemoError, workers
from tests.support.docora import COMMAND, Docora
from tests.support.terminal import TerminalSession

PROMPT = b"# Press Enter to go on."


def test_its_apps_answer_a_probe(docora: Docora) -> None:
    app_id = docora.add_app()
    with apps() as (url, _):
        docora.connection.execute("UPDATE apps SET base_url = %s", (f"{url}/acme",))
        probed = docora.run("probe", app_id, "--json", env={"NODE_ENV": "dev"}).data
    assert {step["state"] for step in probed["steps"]} == {"ok"}


@pytest.mark.slow
def test_the_whole_demo_waits_for_enter_and_leaves_links_and_workers_to_play_with() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    with TerminalSession(
        [str(COMMAND), "demo", "--keep"], environment | {"TERM": "xterm"}, 80, 24
    ) as session:
        for step in range(1, 8):
            session.read_until(re.compile(rb"(.*%s){%d}" % (PROMPT, step), re.DOTALL))
            session.type(b"\n")
        kept = session.read_until(
            re.compile(rb"(?s).*# Then, to begin with:\r\n((?:docora-ops [^\r]*\r\n){3})")
        )
        exports = dict(re.findall(r"^export (\w+)=(\S+)\r$", kept[0].decode(), re.MULTILINE))
        theirs = {name: shlex.split(value)[0] for name, value in exports.items() if name != "PATH"}
        results = [
            subprocess.run(
                [COMMAND, *shlex.split(line)[1:]],
                env=environment | theirs,
                start_new_session=True,  # no terminal that would be asked
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for line in kept[1].decode().splitlines()
        ]
        session.type(b"\x03")
        code, _ = session.end()
    assert code == 0
    assert "docora-ops schedule --repeat" in kept[0].decode().splitlines()
    assert " failed\n" in results[0]
    assert re.search(r"^Workers\t2", results[0], re.MULTILINE)
    assert re.search(r"^Failures\t\d", results[0], re.MULTILINE)
    assert "Result\tin sync" in results[1]
    assert re.search(r"^\d+ in sync", results[2], re.MULTILINE)


def test_without_workers_the_demo_ends(docora: Docora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", "nonsense")
    with pytest.raises(DemoError, match="did not start"), workers(docora.settings):
        pass
