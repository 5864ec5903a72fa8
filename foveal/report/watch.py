"""The report of a run while it goes on, served on this machine alone."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self

from foveal.errors import DataError
from foveal.report.page import POLICY
from foveal.report.record import REPORT, STEPS, read_record
from foveal.report.write import Findings, render
from foveal.train.checkpoint import LOG
from foveal.train.run_folder import STARTED

HOST = "127.0.0.1"
# Seconds after which the page is loaded anew.
REFRESH = 3


class Watch:
    """A server of one run's report, which the browser loads anew while the run goes on. `url` is where.

    It answers for as long as the program runs, or until `close()`; `with watch(...) as live:` closes it in the end.
    """

    def __init__(self, run: Path, port: int) -> None:
        self.run = run
        try:
            self.server = ThreadingHTTPServer((HOST, port), handler(run))
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(
                f"port {port} of {HOST} cannot be used ({reason}); choose another one, or 0 for any"
            ) from None
        self.url = f"http://{HOST}:{self.server.server_port}/"
        self.thread = Thread(target=self.server.serve_forever, args=(0.1,), name="foveal watch", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Serve nothing any more."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def watch(run: str | Path, port: int = 0) -> Watch:
    """Serve the report of a run on 127.0.0.1, also before its first epoch is done, and return the server.

        with report.watch("runs/mine") as live:
            print(live.url)
            input()

    run: the folder of the run, which may not be there yet. port: 0 for one that is free. While the run goes on the page
    has its curves, and is loaded anew every few seconds; when it has ended, it is RUN/report.html. Programs of this
    machine alone can ask for it, and nothing else is served. Raises DataError where the port cannot be used.
    """
    if not 0 <= port <= 65535:
        raise DataError(f"port is {port}; it is a number from 0, for any that is free, to 65535")
    folder = Path(run)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is no folder; give that of a run")
    return Watch(folder, port)


def current_page(run: Path) -> bytes:
    """Return the report of a run that has ended, or what is known of one that goes on."""
    report = run / REPORT
    written = [path.stat().st_mtime for name in (LOG, STEPS, f"{STARTED}/{STEPS}") if (path := run / name).is_file()]
    # A report that is older than the log belongs to the run before.
    if report.is_file() and report.stat().st_mtime >= max(written, default=0.0):
        return report.read_bytes()
    record = read_record(run)
    notes = [] if record.lines or record.steps else ["Nothing is written yet: the run is about to begin, or compiles."]
    return render(record, Findings(notes=notes), REFRESH).encode("utf-8", "xmlcharrefreplace")


def handler(run: Path) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers requests for the report of this run."""

    class Handler(BaseHTTPRequestHandler):
        """Answers GET and HEAD of / alone."""

        server_version, sys_version = "foveal", ""

        def answer(self, send: Callable[[bytes], object]) -> None:
            """Send the page, or why there is none."""
            # A page of another site that was given this address as its own (DNS rebinding) names that site here.
            allowed = [f"{name}:{self.server.server_port}" for name in (HOST, "localhost")]  # type: ignore[attr-defined]
            if self.headers.get("Host") not in allowed:
                self.send_error(403, "Only this machine is answered")
                return
            if self.path.partition("?")[0] not in ("/", f"/{REPORT}"):
                self.send_error(404, "There is the report alone, at /")
                return
            content = current_page(run)
            self.send_response(200)
            for name, value in (
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Length", str(len(content))),
                ("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'"),
                ("X-Content-Type-Options", "nosniff"),
                ("Cache-Control", "no-store"),
                ("Referrer-Policy", "no-referrer"),
            ):
                self.send_header(name, value)
            self.end_headers()
            send(content)

        def do_GET(self) -> None:
            self.answer(self.wfile.write)

        def do_HEAD(self) -> None:
            self.answer(len)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing for a request."""

    return Handler
