"""Logs for programs: one JSON object per line on standard error. No picture, name of a picture or key is in them."""

from __future__ import annotations

import datetime
import json
import logging
import sys

_NOISY = ("PIL", "python_multipart", "uvicorn.error")
"""They warn of what a client sends, which is refused anyway; an error of the application is logged by `guard`."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, message, and what is in its `fields`.

    Example:
        >>> import logging
        >>> from greffon.serving.logs import JsonLines
        >>> record = logging.makeLogRecord({"msg": "ready", "levelname": "INFO", "created": 0.0})
        >>> JsonLines().format(record)
        '{"time":"1970-01-01T00:00:00.000Z","level":"info","message":"ready"}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, in ASCII: nothing that a client sends can begin another one."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"), default=str)


def log_as_json() -> None:
    """Have all logs of this process written as JSON lines: the service's own, and warnings of everybody else's."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    logging.getLogger("greffon.serving").setLevel(logging.INFO)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
