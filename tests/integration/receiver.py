"""``python -m tests.integration.receiver FILE [MODE]``: a webhook in the namespace it is run in.

Prints its port, then appends each request to FILE as a line of JSON. MODE ``hang``: takes
connections and never answers.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def main() -> None:
    file, mode = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "answer"

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            line = json.dumps({"headers": dict(self.headers.items()), "body": body})
            with file.open("a") as stream:
                stream.write(f"{line}\n")
            if mode == "hang":
                threading.Event().wait()
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
