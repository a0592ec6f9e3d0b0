"""The page of a download becomes the app."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cf_app.hub import Progress
from cf_app.ui.waiting import waiting_page
from tests.test_waiting import free_port


class App(BaseHTTPRequestHandler):
    """Answers like the app as far as the waiting page looks."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        known = {"/": b"<h1>the app</h1>", "/config": b"{}"}
        body = known.get(self.path, b"")
        self.send_response(200 if self.path in known else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_the_waiting_page_becomes_the_app(chromium) -> None:
    port = free_port()
    page = chromium.new_page()
    try:
        with waiting_page("longlive", None, port) as tell:
            page.goto(f"http://127.0.0.1:{port}/")
            tell(Progress("models/longlive_base.pt", 1_420_000_000, 5_680_000_000))
            page.get_by_text("models/longlive_base.pt: 1.42 of 5.68 GB").wait_for(timeout=60_000)
            assert page.locator("progress").evaluate("bar => bar.position") == 0.25
            tell(Progress("converting longlive"))
            page.get_by_text("converting longlive").wait_for(timeout=60_000)
            assert page.locator("progress").evaluate("bar => bar.position") == -1
        server = ThreadingHTTPServer(("127.0.0.1", port), App)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            page.get_by_text("the app").wait_for(timeout=60_000)
        finally:
            server.shutdown()
            server.server_close()
    finally:
        page.close()
