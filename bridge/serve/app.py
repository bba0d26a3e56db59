"""The server: the page behind bounds on what comes in, and headers that keep browsers from any other host."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bridge.errors import UserError, import_extra
from bridge.pipeline import BridgePipeline
from bridge.serve.limits import BODY_BYTES, UPLOAD_BYTES, WAITING
from bridge.serve.studio import Files, Studio

LOCAL = "127.0.0.1"
HEADERS = {  # a browser may load what is this server's own, and nothing else
    "content-security-policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
ENVIRONMENT = {  # what Gradio reads
    "GRADIO_ANALYTICS_ENABLED": "False",
    # A summary of the last requests, which costs more with each: made of one, and never again.
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
}


@dataclass(frozen=True)
class Served:
    """A server: its address, and what is behind it."""

    url: str
    studio: Studio


@contextlib.contextmanager
def served(pipe: BridgePipeline, waiting: int = WAITING) -> Iterator[Served]:
    """The page of a model at a free port of this machine, served by a thread until the block ends."""
    port = free_port(LOCAL, 0)
    with _opened(pipe, LOCAL, port, waiting) as (server, studio):
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise UserError(f"port: cannot listen at {LOCAL}:{port}; try again")
            time.sleep(0.02)
        try:
            yield Served(f"http://{LOCAL}:{port}", studio)
        finally:
            server.should_exit = True
            thread.join(30)


def run(pipe: BridgePipeline, host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLineFormatter())
    logging.basicConfig(handlers=[handler], level=logging.ERROR)
    with _opened(pipe, host, port, WAITING) as (server, _):
        server.run()


@contextlib.contextmanager
def _opened(pipe: BridgePipeline, host: str, port: int, waiting: int) -> Iterator[tuple[Any, Studio]]:
    """The server of a model, its studio and its files, which are gone when the block ends; UserError without Gradio."""
    import_extra("gradio", "serve", "gradio", "the web page")
    import uvicorn  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="bridge-", ignore_cleanup_errors=True) as folder:
        before = os.environ.copy()
        os.environ |= {"GRADIO_TEMP_DIR": folder, **ENVIRONMENT}
        studio = Studio(pipe, Files(Path(folder) / "drawn"), waiting)
        try:
            with ThreadPoolExecutor(1) as thread:  # the caller may run an event loop of its own
                app = guarded(thread.submit(asyncio.run, _app(studio)).result(), hosts_of(host))
            config = uvicorn.Config(
                app, host=host, port=port, log_config=None, log_level="error", access_log=False,
                timeout_graceful_shutdown=2, limit_concurrency=512, headers=list(HEADERS.items()),
            )  # fmt: skip
            yield uvicorn.Server(config), studio
        finally:
            studio.batcher.close()
            os.environ.clear()
            os.environ.update(before)


async def _app(studio: Studio) -> Any:
    """The app, made while an event loop runs: else Gradio makes several, and closes none."""
    import fastapi  # noqa: PLC0415
    import gradio  # noqa: PLC0415
    from gradio import queueing, route_utils, routes  # noqa: PLC0415

    from bridge.serve.page import build, log_fault, look  # noqa: PLC0415

    for module in (queueing, route_utils, routes):  # what Gradio prints of a request that it cannot read
        module.traceback = SimpleNamespace(print_exc=lambda: log_fault(sys.exception()))
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/known")
    def known(q: str = "") -> list[str]:
        return studio.complete(q)

    gradio.mount_gradio_app(
        app, build(studio), "/", footer_links=["settings"], run_history=False, max_file_size=UPLOAD_BYTES,
        ssr_mode=False, enable_monitoring=False, show_error=True, **look(),
    )  # fmt: skip
    return app


def guarded(app: Any, hosts: set[str] | None) -> Any:
    """An ASGI app behind bounds on requests, asked under one of `hosts`, so by no other site's page; None: any."""
    from starlette.datastructures import Headers  # noqa: PLC0415
    from starlette.responses import JSONResponse  # noqa: PLC0415

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        taken = 0

        async def bounded() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            return message if taken <= BODY_BYTES else {"type": "http.disconnect"}

        headers, inner = Headers(scope=scope), app
        length = headers.get("content-length", "0")
        if hosts is not None and headers.get("host", "").rsplit(":", 1)[0] not in hosts:
            inner = JSONResponse({"error": "this server is not asked under that name"}, 400)
        elif not length.isdecimal() or int(length) > BODY_BYTES:
            inner = JSONResponse({"error": f"at most {BODY_BYTES} bytes a request"}, 413)
        return await inner(scope, bounded, send)

    return answer


class OneLineFormatter(logging.Formatter):
    """One line a record, also of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, and the error without its traceback."""
        error = traceback.format_exception_only(record.exc_info[1])[-1] if record.exc_info else ""
        return ": ".join(" ".join(text.split()) for text in ("bridge", record.getMessage()[:300], error[:300]) if text)


def free_port(host: str, port: int) -> int:
    """The port, of 0 any. Raises UserError if it cannot be listened at."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        name = "host" if isinstance(error, socket.gaierror) or error.args[0] == errno.EADDRNOTAVAIL else "port"
        raise UserError(f"{name}: cannot listen at {host}:{port} ({why}); choose another --port or --host") from None


def hosts_of(host: str) -> set[str] | None:
    """Names under which a server that listens at `host` may be asked: of this machine alone, its own; else any."""
    return {LOCAL, "localhost", "[::1]"} if host in (LOCAL, "localhost", "::1") else None
