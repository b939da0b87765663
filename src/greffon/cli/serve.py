"""`greffon serve`."""

# Annotations are evaluated here: Cyclopts makes the command line of them.

from typing import Annotated

from cyclopts import Group, Parameter

from greffon.errors import InputError
from greffon.extras import require

_LIMITS = Group("Limits", sort_key=11)


def serve(  # noqa: PLR0913  # one parameter for each flag
    runs: Annotated[tuple[str, ...], Parameter(help="folders that greffon train wrote; NAME=FOLDER names one")],
    /,
    *,
    host: Annotated[
        str, Parameter(help="address to listen on; others than this machine's own need a key")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="port to listen on; 0 takes a free one")] = 8000,
    min_confidence: Annotated[
        float | None, Parameter(help="answers less sure than this are marked as not sure, 0 to 1")
    ] = None,
    watch: Annotated[
        float | None, Parameter(help="look for new versions of the runs every so many seconds, and load them")
    ] = None,
    max_batch: Annotated[int, Parameter(group=_LIMITS, help="pictures in one batch")] = 4,
    batch_wait: Annotated[
        float, Parameter(group=_LIMITS, help="milliseconds that a batch waits for pictures being decoded")
    ] = 0.0,
    queue: Annotated[int, Parameter(group=_LIMITS, help="pictures that may wait; further ones get a 429")] = 64,
    max_pictures: Annotated[int, Parameter(group=_LIMITS, help="pictures in one request")] = 32,
    max_body: Annotated[float, Parameter(group=_LIMITS, help="megabytes of one request")] = 32.0,
    max_pixels: Annotated[float, Parameter(group=_LIMITS, help="megapixels of one picture")] = 40.0,
    timeout: Annotated[float, Parameter(group=_LIMITS, help="seconds that a request may take")] = 30.0,
    stop_timeout: Annotated[
        float, Parameter(group=_LIMITS, help="seconds that requests have to end once the service is stopped")
    ] = 30.0,
) -> None:
    """Answer over HTTP what is in pictures, with a page at / for people.

    POST /v1/predict takes pictures as files or base64; /v2 is the Open Inference protocol; /metrics is for Prometheus;
    /openapi.json describes it all. The keys that requests must carry come from the environment variable
    GREFFON_API_KEYS (several with commas between); without one the service listens on this machine alone.

    SIGHUP loads new versions of the runs, with no request lost. SIGTERM and Ctrl+C answer what is there and stop. Logs
    are JSON lines on standard error and hold nothing of any picture.

    Exit code: 0 once it was stopped; 2 where a run cannot be opened or the address not be listened on.

    Example: greffon serve runs/pets birds=runs/second --port 8080
    """
    require("serve", "greffon serve")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise InputError(f"--min-confidence must be 0 to 1. Got {min_confidence}")
    if watch is not None and watch < 0.1:
        raise InputError(f"--watch must be at least 0.1 seconds. Got {watch}")
    if stop_timeout < 1:
        raise InputError(f"--stop-timeout must be at least 1 second. Got {stop_timeout}")
    from functools import partial

    from greffon.say import say
    from greffon.serving.app import Service
    from greffon.serving.logs import log_as_json
    from greffon.serving.model import ServedModel
    from greffon.serving.models import runs_by_name
    from greffon.serving.server import serve as answer
    from greffon.serving.settings import Settings, check_address, keys_from

    settings = Settings(
        body=_millions("--max-body", max_body),
        pixels=_millions("--max-pixels", max_pixels),
        pictures=max_pictures,
        seconds=timeout,
        queue=queue,
        batch=max_batch,
        wait=batch_wait / 1000,
        keys=keys_from(),
    )
    check_address(host, port, settings.keys)
    service = Service(runs_by_name(runs), settings, partial(ServedModel.load, min_confidence=min_confidence))
    log_as_json()
    answer(
        service,
        host=host,
        port=port,
        stop_seconds=stop_timeout,
        watch_seconds=watch,
        listening=lambda address: say(f"serving {', '.join(runs)} on {address}"),
    )


def _millions(flag: str, value: float) -> int:
    if not 0 < value < 1e6:
        raise InputError(f"{flag} must be above 0. Got {value}")
    return round(value * 1e6)
