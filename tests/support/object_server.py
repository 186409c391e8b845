"""An S3 server for a process of its own: ``python object_server.py`` prints its port in the first line.

``PUT /_faults/N`` makes every N-th request fail from then on (0: none). Failures alternate: the request is refused with 503,
or it is done and the connection closes without an answer. ``GET /_faults`` returns the number of failures.
``PUT /_overwrites/1`` makes the server ignore If-None-Match, as some servers do; ``/0`` ends that.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class _Faulty:
    """An application whose every N-th request fails."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application, self._every = application, 0
        self._num_failed, self._asked = 0, 0
        self._overwrites = False
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/_faults"):
            if environ["REQUEST_METHOD"] == "PUT":
                self._every, self._num_failed = int(path.rpartition("/")[2]), 0
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._num_failed).encode()]
        if path.startswith("/_overwrites"):
            self._overwrites = path.endswith("1")
            start_response("200 OK", [])
            return []
        if self._overwrites:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with self._lock:
            self._asked += 1
            fails = bool(self._every) and self._asked % self._every == 0
            self._num_failed += fails
            is_lost = fails and self._num_failed % 2 == 0
        if fails and not is_lost:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Length", "0")])
            return []
        answer = self._application(environ, start_response)
        if is_lost:
            b"".join(answer)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return answer


def _serve() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = _Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.server_port, flush=True)  # noqa: T201
    # Standard input closes when the parent process ends.
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
