"""The demo's receiver, which checks each signature: `receiver APP KEY [FILE]`.

Prints the app's URL; writes each request to FILE, if given, as a line of JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import Event

from docora_ops.demo.receiver import CREATED, Receiver, Request

_SIGNED = ("X-Docora-App-Id", "X-Docora-Timestamp", "X-Docora-Signature")


def main(app: str, key: str, record: str | None = None) -> None:
    """Serve until killed."""

    def answer(request: Request) -> int:
        if record is not None:
            headers = {name: request.headers[name] for name in _SIGNED}
            line = json.dumps([request.event, headers, request.body.decode()])
            with Path(record).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        return CREATED

    with Receiver({app: key}, answer).serving() as receiver:
        print(receiver.base_url(app), flush=True)
        Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
