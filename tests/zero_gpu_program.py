"""Run by `test_zero_gpu.py` in a process of its own: sessions through the real `spaces` package and a small scheduler.

The scheduler has the four endpoints of ZeroGPU's and a GPU that is none; the engine stays on the CPU. Writes JSON to
the file that its argument names.
"""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

asked: list[tuple[str, float]] = []


class Scheduler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        path = self.path.split("?")[0]
        asked.append((path, time.monotonic()))
        body = {"idle": IDLE, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": f"token-{len(asked)}"}
        data = json.dumps(body).encode() if path == "/schedule" else b""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def main() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Scheduler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = Path(tempfile.mkdtemp())
    (folder / "cgroup").write_text("0::/somewhere\n")
    os.environ |= {
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "ZEROGPU_OFFLOAD_DIR": str(folder / "tensors"),
        "ZEROGPU_PROC_SELF_CGROUP_PATH": str(folder / "cgroup"),
    }
    from cf_app.space.imitation import complete

    complete()
    import spaces.zero.torch

    spaces.zero.torch.init = lambda uuid: None  # there is no GPU to be opened in the processes of the calls
    spaces.zero.torch.move = lambda callback=None: None
    from cf_app.engine.messages import ChunkReady, Ended, Failed, Play, SetPrompt, Stop
    from cf_app.memory.policy import Fifo
    from cf_app.space.segmented import SegmentedWorker
    from cf_app.space.zero import lent_gpu
    from tests.tiny import EXAMPLES, tiny_engine

    engine = tiny_engine()
    found: dict[str, object] = {}
    short = SegmentedWorker(engine, lent_gpu(engine, 0.01), seconds=0.01)
    session = short.open(EXAMPLES[0], 3, chunks=5, policy=Fifo(12))
    short.send(session, Play())
    arrivals, entries, problems = [], [], []
    while not isinstance(event := short.events(session, 120), Ended) and event is not None:
        if isinstance(event, ChunkReady):
            arrivals.append((event.chunk, time.monotonic()))
            entries.append(sorted({entry.latent for entry in event.snapshot.entries}))
        elif isinstance(event, Failed):
            problems.append(event.message)
    found |= {"chunks": [chunk for chunk, _ in arrivals], "entries": entries, "problems": problems}
    found["calls"] = sum(path == "/schedule" for path, _ in asked)
    found["released"] = sum(path == "/release" for path, _ in asked)
    due, frozen = arrivals[0][1], 0.0
    for _, at in arrivals:
        frozen += max(0.0, at - due)
        due = max(due, at) + engine.geometry.chunk_seconds
    found["frozen_s"] = round(frozen, 3)
    short.shutdown()

    before = int(found["calls"])  # type: ignore[call-overload]
    long = SegmentedWorker(engine, lent_gpu(engine, 600), seconds=600)
    session = long.open(EXAMPLES[0], 3)
    long.send(session, Play())
    prompts, changed = [], False
    while not isinstance(event := long.events(session, 120), Ended) and event is not None:
        if isinstance(event, ChunkReady):
            prompts.append(event.prompt)
            if event.chunk == 1:
                long.send(session, SetPrompt(EXAMPLES[1]))
            if event.prompt == EXAMPLES[1] and not changed:
                changed = True
                long.send(session, Stop())
        elif isinstance(event, Failed):
            problems.append(event.message)
            break
    found |= {"prompts": prompts, "ended": event.reason if isinstance(event, Ended) else None}
    found["calls_of_the_long_one"] = sum(path == "/schedule" for path, _ in asked) - before
    long.shutdown()
    Path(sys.argv[1]).write_text(json.dumps(found))
    for process in multiprocessing.active_children():  # those of calls wait for the next one
        process.terminate()
        process.join()
    os._exit(0)


IDLE = False

if __name__ == "__main__":
    main()
