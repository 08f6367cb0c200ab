"""The example of the topic `python` runs, and the Python API is whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import docora_ops
from docora_ops import actions
from docora_ops.errors import UsageError
from docora_ops.operations import MaxFailures
from tests.support.docora import Docora
from tests.support.proxy import patience

TOPIC = Path(docora_ops.__file__).parent / "help" / "python.md"


@pytest.mark.slow
def test_the_example_runs_with_an_env_file(docora: Docora, tmp_path: Path) -> None:
    file = tmp_path / "docora.env"
    urls = {"DATABASE_URL": docora.database_url, "REDIS_URL": docora.redis_url}
    file.write_text("".join(f"{name}={url}\n" for name, url in urls.items()), encoding="utf-8")
    file.chmod(0o600)
    env = {**dict.fromkeys(urls), "DOCORA_OPS_ENV_FILE": str(file)}
    link = docora.add_link(last_error="HTTP 502 on created a.md")
    match = re.search(r"```python\n(.*?)```", TOPIC.read_text(encoding="utf-8"), re.DOTALL)
    assert match
    with docora.start_program(sys.executable, "-c", match[1], env=env) as process:
        stdout, stderr = process.communicate(timeout=2 * patience())
    assert (process.wait(), stderr) == (0, "")
    assert stdout.splitlines()[0].endswith("HTTP 502 on created a.md")
    assert "1 of 1" in stdout
    assert "no worker listens" in stdout
    assert docora.was_reset(link)


def test_each_name_of_the_api_is_there_and_documented() -> None:
    for name in (each for names in actions._MODULES.values() for each in names):
        found = getattr(actions, name)
        assert callable(found), name
        assert found.__doc__, name
        assert found.__module__.startswith("docora_ops."), name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        actions.__getattr__("nothing")


def test_the_api_refuses_options_that_do_not_go_together_as_the_command_does() -> None:
    for options, said in (
        ({"timeout": 3}, "--timeout needs --wait"),
        ({"in_flight": 0}, "--in-flight needs at least 1"),
        ({"max_failures": MaxFailures(3)}, "--max-failures needs --in-flight"),
        ({"wait": True, "dry_run": True}, "--wait and --dry-run can't be combined"),
    ):
        with pytest.raises(UsageError, match=said):
            actions.ChangeOptions(**options)


def test_the_api_loads_no_driver_before_it_is_used() -> None:
    program = (
        "import sys; from docora_ops import actions; "
        "print(sorted({'psycopg', 'redis', 'rich', 'typer'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
