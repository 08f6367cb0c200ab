"""`--target` and `targets`: which file is read, where its name stands, and all side by side."""

import re
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from docora_ops.database import Database
from docora_ops.errors import ConfigurationError
from docora_ops.settings import load_settings, own_folder, target_files
from tests.connections.conftest import Write
from tests.help.test_completed_values import offers
from tests.repair.test_verify import store
from tests.retry.test_set_url import grant
from tests.support.diagnoses import ONE_LOOK, make_healthy
from tests.support.docora import Docora, finish
from tests.support.proxy import patience
from tests.support.read_only import frozen
from tests.support.terminal import on_terminal

Env = Mapping[str, str | None]
ELSEWHERE = "postgres://u@127.0.0.1:1/elsewhere"


def test_the_environment_leads_no_target_away(docora: Docora, env: Env) -> None:
    docora.add_app("Acme Search")
    for elsewhere in (
        {"DATABASE_URL": ELSEWHERE, "REDIS_URL": "redis://127.0.0.1:1"},
        {"DATABASE_URL_FILE": "/nowhere", "REDIS_URL_FILE": "/nowhere"},
        {"DOCORA_OPS_CONNECT_TIMEOUT": "7", "DOCORA_OPS_PROTECTED": "no"},
    ):
        result = docora.run("apps", "--target", "prod", "--json", env={**env, **elsewhere}).ended(0)
        assert [app["app_name"] for app in result.data] == ["Acme Search"]


def test_the_next_commands_of_set_url_name_the_target(docora: Docora, env: Env) -> None:
    grant(docora)
    link = docora.add_link()
    docora.link(link.app_id, docora.add_repository("octo/other"), "scanning")
    words = ("set-url", link.app_id, "https://new.example", "--confirm", "prod", "--json")
    by_name = docora.run(*words, "--target", "prod", env=env).ended(0)
    commands = by_name.data["next_commands"]
    assert [line.partition(": ")[2] for line in by_name.stderr.splitlines()[-2:]] == commands
    assert [shlex.split(command)[1] for command in commands] == ["resync", "retry-all-failed"]
    for command in commands:
        assert command.count("--target prod") == 1, command
        assert docora.run(*shlex.split(command)[1:], "--dry-run", env=env).code == 0


def test_an_added_target_does_not_touch_what_was_recorded(docora: Docora, env: Env) -> None:
    said = "try docora-ops retry Acme octo/api again"
    link = docora.add_link(last_error=said)
    chosen = ("--target", "prod")
    words: tuple[str, ...] = ("--error", said, "--reason", said, "--confirm", "prod")
    assert docora.run("retry-all-failed", *words, *chosen, env=env).code == 0
    docora.set_link(link, status="failed", last_error=said)
    for command in ("failed", "history", "report"):
        for options in ((), ("--json",)):
            words = (command, *options, *chosen)
            shown = docora.run(*words, env=env)
            assert said in shown.stdout, shown
            if not options:
                _, screen = on_terminal(docora, words, env=env, columns=200)
                assert "docora-ops retry Acme" in " ".join(screen.split()), screen


def test_suggested_commands_name_the_target(docora: Docora, env: Env, tmp_path: Path) -> None:
    link = docora.add_link("synced")
    store(docora, link.repository_id, {"new": "a" * 64})
    refused = f"docora-ops resync --target prod {' '.join(link.ids)}"
    by_variable: Env = {**env, **ONE_LOOK, "DOCORA_OPS_TARGET": "prod"}
    for words in (["retry", *link.ids], ["retry", *link.ids, "--json"]):
        result = docora.run(*words, env=by_variable)
        assert (result.code, result.stderr.count(refused)) == (4, 1), result
        assert refused in (result.json["hint"] if "--json" in words else result.stderr)
    verified = docora.run("verify", env=by_variable)
    assert "again: docora-ops resync --target prod" in verified.stdout + verified.stderr
    reported = docora.run("report", env=by_variable).stdout
    assert re.findall(r"docora-ops \w+(?! --target prod)\b", reported) == [], reported
    assert reported.count("docora-ops report --target prod --verify`") == 1
    checked = docora.run("doctor", "--json", env=by_variable)
    hints = " ".join(each["hint"] or "" for each in checked.data["checks"])
    assert "docora-ops worker --target prod" in hints
    _, shown = on_terminal(docora, ["doctor"], env=by_variable)
    assert "docora-ops worker --target prod" in " ".join(shown.split())
    assert "export" not in shown
    by_file = ["retry", *link.ids, "--env-file", str(tmp_path / "docora-ops/targets/prod.env")]
    assert "--target" not in docora.run(*by_file, env=env).stderr


def test_the_file_wins_over_the_environment_and_leaves_the_rest_to_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("DATABASE_URL", ELSEWHERE), ("SCAN_CONCURRENCY", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DOCORA_OPS_LOCK_TIMEOUT", "7")
    monkeypatch.setenv("DOCORA_OPS_PROTECTED", "no")
    write("a", REDIS_URL="redis://a", SCAN_CONCURRENCY="2", DOCORA_OPS_PROTECTED="yes")
    settings = load_settings(target="a")
    assert (settings.target, settings.protected) == ("a", True)
    assert (settings.scan_concurrency, settings.lock_timeout) == (2, 7)
    write("c", REDIS_URL="redis://c", DATABASE_URL="postgres:///?service=x")
    with pytest.raises(ConfigurationError, match="DATABASE_URL names a service"):
        Database(load_settings(target="c"))
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set") as error:
        settings.require_database_url()
    assert "the target a" in str(error.value.hint)
    file = write("b", DATABASE_URL=ELSEWHERE)
    with pytest.raises(ConfigurationError, match=f"{file} has no REDIS_URL"):
        load_settings(target="b")


def test_an_option_wins_and_two_are_refused(docora: Docora, env: Env, tmp_path: Path) -> None:
    file = tmp_path / "other.env"
    file.write_text(f"REDIS_URL={docora.redis_url}\n")
    by_file = {**env, "DOCORA_OPS_ENV_FILE": str(file)}
    by_name = {**env, "DOCORA_OPS_TARGET": "prod"}
    for arguments, given, target in (
        ([], by_name, "prod"),
        (["--target", "prod"], by_file, "prod"),
        (["--target", "prod"], {**by_file, "DOCORA_OPS_TARGET": "trial"}, "prod"),
        (["--env-file", str(file)], {**by_name, "DOCORA_OPS_TARGET": "trial"}, None),
    ):
        result = docora.run("queue", "--json", *arguments, env=given)
        assert (result.code, result.json.get("target")) == (0, target), (arguments, result)
    both = docora.run("queue", "--target", "prod", "--env-file", str(file), env=env)
    assert (both.code, "--env-file and --target" in both.stderr) == (2, True)
    both = docora.run("queue", env={**by_name, **by_file})
    assert (both.code, "DOCORA_OPS_TARGET can't be combined" in both.stderr) == (2, True)


def test_an_unknown_name_is_told_what_there_is(docora: Docora, env: Env, tmp_path: Path) -> None:
    (tmp_path / "other.env").touch()
    for name, hint in (
        ("other", "the targets are prod, trial"),
        ("../../other", "use letters, digits, . _ and -"),
        (".", "use letters"),
        ("x" * 300, "use letters"),
    ):
        for options, variable in (("--target", name), {}), ((), {"DOCORA_OPS_TARGET": name}):
            result = docora.run("queue", *options, "--json", env={**env, **variable})
            assert (result.code, result.json["code"]) == (2, "configuration")
            assert (result.json["target"], "--target" in result.json["hint"]) == (name, False)
            assert hint in result.json["hint"]


def test_the_folder_of_the_user_wins_over_that_of_the_system(write: Write, tmp_path: Path) -> None:
    system = tmp_path / "system"
    theirs = [write(name, system) for name in ("prod", "staging")]
    assert target_files() == {"prod": theirs[0], "staging": theirs[1]}
    own = [write(name) for name in ("prod", "a.b-c_1", "not a name", "-x")]
    assert target_files() == {"a.b-c_1": own[1], "prod": own[0], "staging": theirs[1]}
    assert list(target_files()) == ["a.b-c_1", "prod", "staging"]


def test_a_folder_that_can_not_be_read_is_not_passed_over_for_that_of_the_system(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system"
    file = write("prod", system)
    own = write("prod").parent
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", "/nowhere")
    assert (own_folder(), target_files()) == (
        Path("/nowhere/.config/docora-ops/targets"),
        {"prod": file},
    )
    for folder in (own, system):
        folder.rename(tmp_path / "away")
        folder.symlink_to(folder)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        if folder == own:
            with pytest.raises(ConfigurationError, match=f"{own} can't be read"):
                load_settings(target="prod")
        else:
            assert target_files()["prod"].parent == own
        folder.unlink()
        (tmp_path / "away").rename(folder)


@pytest.mark.parametrize(
    ("mode", "settings", "is_refused"),
    [
        (0o644, {"DATABASE_URL": "postgres://u:s3cr3t@h/d"}, True),
        (0o644, {"DATABASE_URL": "postgres://u@h/d?password=s3cr3t"}, True),
        (0o604, {"ENCRYPTION_KEY": "s3cr3t"}, True),
        (0o640, {"DATABASE_URL": "postgres://u:s3cr3t@h/d"}, False),
        (0o644, {"DATABASE_URL": "postgres://u@h:5432/d", "ENCRYPTION_KEY": ""}, False),
        (0o644, {"ENCRYPTION_KEY_FILE": "SECRET"}, False),
    ],
)
def test_a_file_with_a_password_that_everybody_can_read_is_refused(
    write: Write, tmp_path: Path, mode: int, settings: dict[str, str], is_refused: bool
) -> None:
    (tmp_path / "secret").write_text("s3cr3t")
    settings = {
        name: value.replace("SECRET", f"{tmp_path}/secret") for name, value in settings.items()
    }
    file = write("a", REDIS_URL="redis://h", **settings)
    file.chmod(mode)
    if not is_refused:
        assert load_settings(target="a").target == "a"
        return
    with pytest.raises(ConfigurationError, match="every user can read it") as error:
        load_settings(target="a")
    assert f"chmod o-r {file}" in str(error.value.hint)
    assert "s3cr3t" not in str(error.value)


@pytest.mark.slow
def test_the_name_stands_wherever_a_server_is_named_or_changed(docora: Docora, env: Env) -> None:
    link = docora.add_link()
    docora.add_worker()
    prod = ("--target", "prod")
    status, metrics, refused = docora.run_together(
        ["status", *prod], ["metrics", *prod], ["retry", "nobody", "x/y", "--json", *prod], env=env
    )
    assert "\nTarget\tprod\nPostgres\t" in status.stdout
    samples = [line for line in metrics.stdout.splitlines() if not line.startswith("#")]
    assert samples
    assert all('target="prod"' in line for line in samples)
    assert (refused.code, refused.json["target"]) == (3, "prod")
    for command in ("links", "apps", "operations", "history"):
        assert docora.run(command, *prod, env=env).stderr.startswith("prod: "), command
    screens = ["show", *link.ids], ["queue"], ["doctor"], ["verify"], ["wait", *link.ids]
    for words in (*screens, ["retry-all-failed", "--error", "no such", "--confirm", "prod"]):
        assert docora.run(*words, *prod, env=env).stderr.count("Target: prod\n") == 1, words
    for words in (["retry", *link.ids], ["schedule"], ["pause", "--confirm", "prod"], ["resume"]):
        result = docora.run(*words, *prod, env=env)
        assert (result.code, result.stderr.count("prod: ")) == (0, 1), result
    entries = docora.audit_entries() + docora.audit_entries("docora-ops:audit:schedule")
    assert {entry["target"] for entry in entries} == {"prod"}
    history = docora.run("history", "--json", *prod, env=env)
    assert {entry["target"] for entry in history.data} == {"prod"}
    assert "target" not in docora.run("history", "--json").json
    code, shown = on_terminal(docora, ["resync", *link.ids, *prod], answer=b"n\n", env=env)
    assert (code, "\nprod: " in shown.replace("\r", "")) == (130, True), shown


def test_targets_are_listed_without_any_server(docora: Docora, env: Env, write: Write) -> None:
    broken = write("broken")
    broken.write_text("nonsense!\n")
    result = docora.run("targets", "--json", env=env)
    rows = {row["target"]: row for row in result.data}
    assert (result.code, list(rows)) == (6, ["broken", "prod", "trial"])
    assert (rows["trial"]["postgres"], rows["trial"]["redis"]) == (
        "d on 127.0.0.1",
        "127.0.0.1:1/0",
    )
    assert [row["protected"] for row in rows.values()] == [None, True, False]
    assert [bool(row["problem"]) for row in rows.values()] == [True, False, False]
    assert rows["broken"]["file"] == str(broken)
    assert rows["prod"]["failed_links"] is None
    broken.unlink()
    listed = docora.run("targets", env=env)
    assert (listed.code, len(listed.stdout.splitlines())) == (0, 3)
    assert "s3cr3t" not in result.stdout + listed.stdout
    nowhere = docora.run("targets", env={"XDG_CONFIG_HOME": "/nowhere"})
    assert (nowhere.code, nowhere.stdout) == (0, "")
    assert "put NAME.env into /nowhere/docora-ops/targets" in nowhere.stderr


@pytest.mark.slow
def test_a_check_shows_all_and_fails_for_a_problem(docora: Docora, env: Env, write: Write) -> None:
    make_healthy(docora)
    for _ in range(3):
        docora.add_link()
    with frozen(docora):
        result = docora.run("targets", "--check", "--json", env=env).ended(6)
    prod, trial = result.data
    assert (prod["failed_links"], prod["overdue_links"], prod["worker_count"]) == (3, 0, 1)
    assert prod["problem"] is None
    assert trial["failed_links"] is trial["worker_count"] is None
    assert "Postgres database d on 127.0.0.1 can't be reached" in trial["problem"]
    assert "Redis at 127.0.0.1:1/0 can't be reached" in trial["problem"]
    write("trial").unlink()
    assert docora.run("targets", "--check", env=env).code == 0
    docora.redis.delete("rq:workers", "rq:workers:snapshot-queue")
    docora.connection.execute(
        "UPDATE app_repositories SET status = 'synced', last_scanned_at = now() - interval '1 day'"
        " WHERE status = 'failed'"
    )
    alone = docora.run("targets", "--check", "--json", env={**env, "DOCORA_OPS_BACKEND": "rq"})
    assert (alone.code, alone.data[0]["overdue_links"]) == (6, 3)
    for finding in ("no worker listens on snapshot-queue", "3 links of 3 apps without a good scan"):
        assert finding in alone.data[0]["problem"]


def test_a_silent_server_holds_up_no_other_target(docora: Docora, env: Env, write: Write) -> None:
    env = {**env, "DOCORA_OPS_CONNECT_TIMEOUT": "3600"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(patience())
        port = silent.getsockname()[1]
        for name in "abc":
            write(
                name, DATABASE_URL=f"postgres://127.0.0.1:{port}/x", REDIS_URL="redis://127.0.0.1:1"
            )
        process = docora.start("targets", "--check", env=env)
        connections = [silent.accept()[0] for _ in "abc"]
        assert finish(process).code == 6
        for connection in connections:
            connection.close()


def test_names_are_completed_without_reading_a_file(docora: Docora, env: Env) -> None:
    docora.add_app("Acme Search")
    assert offers(docora, "show", "--target", "", **env) == ["prod", "trial"]
    assert offers(docora, "status", "--target", "t", **env) == ["trial"]
    assert offers(docora, "show", "--target=prod", "A", **env) == ["Acme Search"]
