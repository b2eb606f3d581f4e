"""An engine that runs no model: what it says of itself and replies is put into a real store."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from engine.linker.config import watched
from engine.linker.progress import RankWork
from state_store.encodings import Segment
from state_store.fingerprint import Fingerprint
from state_store.registry import CommandListener, Heartbeat

FINGERPRINT = Fingerprint(
    weights="w", architecture="a", tokenizer="t", kv_dtype="bfloat16", conv_dtype="bfloat16",
    ssm_dtype="float32", page_size=64, kv_payload_bytes=96, state_payload_bytes=160,
    kv_segments=(Segment("bfloat16", 96),), state_segments=(Segment("float32", 160),),
    tp_size=1, draft="none", bigram=False, engine="e",
)  # fmt: skip
IDLE = {"num_running_reqs": 0, "num_waiting_reqs": 0, "num_used_tokens": 0}
COUNTS = {
    "prefilled_tokens": 10, "bytes_loaded": 20, "bytes_written": 30, "load_seconds": 0.5,
    "offload_seconds": 1.5, "load_failures": 0, "offload_failures": 0, "offload_bytes_waiting": 0,
    "commands_running": 0,
}  # fmt: skip


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.looked_at.set()
        body = json.dumps({"loads": self.server.loads}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Pretended:
    """Gives all signs of life that an engine gives.

    record: that it publishes
    work: what it tells of any session; counts: of itself; loads: of its ranks
    drained: what it was told of that
    looked_at: set when somebody has asked for its load
    """

    def __init__(self, url, engine_id):
        self.work = RankWork()
        self.counts = dict(COUNTS)
        self.drained = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.looked_at = self._http.looked_at = threading.Event()
        self.loads = self._http.loads = [dict(IDLE)]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self.record = {
            "engine_id": engine_id, "boot_id": f"boot of {engine_id}", "ranks": 1,
            "url": f"http://127.0.0.1:{self._http.server_port}", "page_size": 64,
            "fingerprint": FINGERPRINT.model_dump(mode="json"), "kv_object_bytes": 96,
            "state_object_bytes": 160, "context_length": 4096, "prefill_chunk": 1024,
            "running_slots": 4, "state_slots": 24, "kv_slots": 4096, "staging_bytes": 4096,
            "greedy_only": False,
        }  # fmt: skip
        beat = Heartbeat(url, engine_id, self.record, ttl=60.0, prefix="torpor")
        commands = {
            "progress": lambda _: self.told(),
            "status": lambda _: self.counts,
            "drain": lambda payload: self.drained.append(payload["draining"]) or {},
        }
        listener = CommandListener(
            url, watched(self.record["boot_id"]), 0, commands, prefix="torpor"
        )
        self._parts = (beat, listener)
        for thread in (*self._parts, self._thread):
            thread.start()

    def told(self):
        return {
            **vars(self.work),
            **{part: vars(getattr(self.work, part)) for part in ("load", "prefill", "offload")},
        }

    def end(self):
        for part in self._parts:
            part.stop()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
