"""What strangers may have put where Docora keeps texts, and how a person has to see it.

TRICKS is the corpus; the functions fill both stores of a Docora with it.
"""

import json
import pickle
import zlib
from base64 import b64encode
from typing import Any

from tests.support.docora import QUEUE, Docora
from tests.support.rows import AUTH_KEY, TestLink

TRICKS = {
    # escape sequences, in seven bits and in eight
    "\x1b[5;35mX\x1b[2J": r"\x1b[5;35mX\x1b[2J",
    "\x1b]0;PWNED\x07": r"\x1b]0;PWNED\x07",
    "\x1b]52;c;cm0gLXJm\x07": r"\x1b]52;c;cm0gLXJm\x07",
    "\x1b]8;;https://evil.example\x1b\\go\x1b]8;;\x1b\\": (
        r"\x1b]8;;https://evil.example\x1b\go\x1b]8;;\x1b" + "\\"
    ),
    "\x1bP+q544e\x1b\\\x1b^pm\x1b\\\x1bc": r"\x1bP+q544e\x1b\\x1b^pm\x1b\\x1bc",
    "\x9b5;35mY\x9d0;t\x9c\x90q": r"\x9b5;35mY\x9d0;t\x9c\x90q",
    "\u00c2\u009b5mZ": "\u00c2\\x9b5mZ",  # as Latin-1 the bytes of a C1 control in UTF-8
    # markup, and the placeholders of whatever formats a text
    "[red]x[/] [/] [link=https://evil.example]y[/link]": (
        "[red]x[/] [/] [link=https://evil.example]y[/link]"
    ),
    ":boom: {0} {where} %s %(x)s ${HOME} $(id) `id` \\n \\x1b[1m": (
        ":boom: {0} {where} %s %(x)s ${HOME} $(id) `id` \\n \\x1b[1m"
    ),
    # ends of lines
    "a\nb\r\nc\rd\te\vf\fg\x1ch\x1di\x1ej": r"a\nb\r\nc\rd\te\x0bf\x0cg\x1ch\x1di\x1ej",
    "n\x85o\u2028p\u2029q": r"n\x85o\u2028p\u2029q",
    "b\b\b\x7f\x01\x1f": r"b\x08\x08\x7f\x01\x1f",
    # what is not seen, and what turns the order of letters
    "\u202egnp\u202c\u2066i\u2069\u200e\u061c": r"\u202egnp\u202c\u2066i\u2069\u200e\u061c",
    "z\u200bw\u200cj\u200d\u2060\ufeff\u00ad": r"z\u200bw\u200cj\u200d\u2060\ufeff\xad",
    "t\u180e\U000e0041\U000e007f": r"t\u180e\U000e0041\U000e007f",
    "p\ue000\U0010fffd\ufffe\u0378": r"p\ue000\U0010fffd\ufffe\u0378",
    # what has a width of its own
    "⚠\ufe0f i\u034fv\u3164\U000e0100": "⚠\ufe0f i\u034fv\u3164\U000e0100",
    "😀 👨\u200d👩\u200d👧 🇩🇪 👍🏽": r"😀 👨\u200d👩\u200d👧 🇩🇪 👍🏽",
    "漢字 ﾊﾝｶｸ 한국어\u3000x": "漢字 ﾊﾝｶｸ 한국어\u3000x",
    "Café Cafe\u0301 Å A\u030a": "Café Cafe\u0301 Å A\u030a",
    "Z\u0335\u0321\u0322a\u0327\u0328": "Z\u0335\u0321\u0322a\u0327\u0328",
    "עברית العربية ไทย": "עברית العربية ไทย",
    # what means something to a table, a shell or a parser
    "a,b;\"c\"|'d'\\,=1+1,@SUM(A1),-1": "a,b;\"c\"|'d'\\,=1+1,@SUM(A1),-1",
    '{"data": null, "error": "x"}, []': '{"data": null, "error": "x"}, []',
    "  at both ends  ": "  at both ends  ",
    "--yes": "--yes",
    "'; DROP TABLE apps; --": "'; DROP TABLE apps; --",
    "../../etc/passwd": "../../etc/passwd",
    "n" * 90: "n" * 90,
}
"""Each fits into every column of Docora's, and no two of them are the same app's name."""

EVIL = " ".join(TRICKS)


STRANGE_IDS = (" ", "a b", "a.b", "a/b", "a'b", "ü", "--yes", "-h", "$(id)", "\x1b[2J", "\u202ex")
"""Of apps and repositories; most of them can't form a job id."""
RAW = b"\x9b5;35m\xff\xc2\x9b \x1b[2J"
OPERATION = "bulk_0123456789abcdef"

# Has the whole corpus for an error, and for the traceback of its job.
WHOLE = TestLink("app_whole", "repo_whole")
# Has a status that Docora does not know, and a job whose fields are no text.
ODD = TestLink("app_status", "repo_status")
# Form the same job id.
FIRST, SECOND = TestLink("a-b", "c"), TestLink("a", "b-c")


def link_of(number: int) -> TestLink:
    return TestLink(f"app_{number:024x}", f"repo_{number:024x}")


def fill_database(docora: Docora) -> None:
    """A failed link for each trick, with it in every column, and some links of their own kind."""
    for number, trick in enumerate(TRICKS):
        _add_link(docora, link_of(number), trick, trick, last_error=trick)
    _add_link(docora, WHOLE, "Whole", "whole", last_error=EVIL)
    for text in STRANGE_IDS:
        _add_link(docora, TestLink(text, text), f"Id {text}", f"id-{text}")
    _add_link(docora, ODD, "Status", "status", status=EVIL[:50])
    docora.age_links()


def add_colliding_links(docora: Docora) -> None:
    for link in (FIRST, SECOND):
        _add_link(docora, link, f"Colliding {link.app_id}", link.app_id)


def _add_link(
    docora: Docora, link: TestLink, app_name: str, name: str, *, status: str = "failed", **row: Any
) -> None:
    execute = docora.connection.execute
    docora.add_app(app_name, link.app_id)
    url = f"https://github.com/{link.repository_id}/{name}"
    docora.add_repository("?/?", link.repository_id, url=url)
    base_url = f"https://acme.example/{name}"
    execute("UPDATE apps SET base_url = %s WHERE app_id = %s", (base_url, link.app_id))
    change = "UPDATE repositories SET owner = %s, name = %s WHERE repository_id = %s"
    execute(change, (name, name, link.repository_id))
    docora.link(*link.ids, status, **{"last_error": None, **row})
    execute(
        "INSERT INTO repository_snapshots (repository_id, commit_sha, branch) VALUES (%s, %s, %s)",
        (link.repository_id, name[:40], name),
    )
    execute(
        "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
        " VALUES (%s, %s, %s, %s)",
        (link.app_id[:36], link.repository_id[:36], name, name[:64]),
    )


def fill_redis(docora: Docora) -> None:
    for number, trick in enumerate(TRICKS):
        _add_job(docora, link_of(number), trick.encode(), trick)
        _add_worker(docora, trick)
        _add_operation(docora, trick, trick.encode())
        _add_change(docora, trick.encode())
    _add_job(docora, WHOLE, EVIL.encode(), EVIL)
    _add_job(docora, ODD, RAW, "raw")
    _add_worker(docora, "raw", RAW)
    _add_operation(docora, OPERATION, *map(str.encode, TRICKS), EVIL.encode(), RAW)
    _add_change(docora, RAW)
    docora.redis.set(f"rq:scheduler-lock:{QUEUE}", EVIL)


def _add_job(docora: Docora, link: TestLink, text: bytes, name: str) -> None:
    """A failed job, a job of another producer in the list, and one that a worker has taken."""
    call = {"app_name": name, "owner": name, "name": name, "client_auth_key_encrypted": AUTH_KEY}
    data = zlib.compress(pickle.dumps((name, None, (), call)))
    names = ("status", "origin", "worker_name", "description", "exc_info", "meta", "created_at")
    fields: dict[Any, Any] = {**dict.fromkeys(names, text), "data": data}
    docora.redis.hset(f"rq:job:{link.job_id}", mapping=fields)
    docora.redis.hset(f"rq:job:{name}", mapping=fields)
    docora.redis.rpush(docora.queue.key, text)
    docora.redis.zadd(f"rq:scheduled:{QUEUE}", {text: 4e9})
    for job_id in (text, link.job_id.encode()):
        docora.redis.zadd(f"rq:failed:{QUEUE}", {job_id: 4e9})
    docora.redis.zadd(f"rq:wip:{QUEUE}", {text + b":" + text: 4e9})
    error = b64encode(zlib.compress(b"Traceback:\n" + text))
    result: dict[Any, Any] = {"type": "2", "worker_name": text, "exc_string": error}
    docora.redis.xadd(f"rq:results:{link.job_id}", result)


def _add_worker(docora: Docora, name: str, text: bytes = b"") -> None:
    text = text or name.encode()
    docora.add_worker(name)
    fields: Any = dict.fromkeys(("state", "hostname", "pid", "last_heartbeat"), text)
    docora.redis.hset(f"rq:worker:{name}", mapping=fields)
    docora.redis.sadd(f"rq:workers:{name}:executions", text + b":1")
    docora.redis.hset(b"rq:execution:" + text + b":1", "created_at", text)


def _add_operation(docora: Docora, operation_id: str, *texts: bytes) -> None:
    fields: dict[Any, Any] = {"total": 9, "completed": 3, "succeeded": 2, "failed": 1}
    fields["cancelled"] = texts[0]
    docora.redis.hset(f"docora:bulk:{operation_id}", mapping=fields)
    failures = [[text.decode(errors="replace")] * 6 for text in texts]
    fields["failures"] = zlib.compress(json.dumps(failures).encode())
    docora.redis.hset(f"docora-ops:operation:{operation_id}:record", mapping=fields)


def _add_change(docora: Docora, text: bytes) -> None:
    value = text.decode(errors="replace")
    entry: dict[Any, Any] = dict.fromkeys(("who", "command", "reason", "operation_id"), text)
    selection = json.dumps({"app_name": value, value: value, "error": value})
    entry |= {
        "event": "ended",
        "selection": selection,
        "counts": json.dumps({"total": 1, value: 1}),
    }
    docora.redis.xadd("docora-ops:audit", entry)
