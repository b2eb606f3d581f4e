"""llama.cpp, an implementation of Nemotron-H that shares no code with SGLang's, transformers' or
ours: a reference for what the model says, and a peer that saves and restores its state as a file.
Driven by ctypes through the C library inside the `xllamacpp` wheel, whose Python interface takes
text only.
"""

from __future__ import annotations

import ctypes as c
import logging
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_GGML_F32 = 0
_OFF = 0
_LOG_ERROR = 4
_BATCH = 512


class LlamaProcess:
    """A LlamaModel in a process of its own: the extension crashes an interpreter at its exit."""

    def __init__(self, gguf: Path, vocabulary: int, *, context: int = 2048, flash: bool = False):
        """As LlamaModel."""
        spawning = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(
            target=_answer, args=(theirs, gguf, vocabulary, context, flash)
        )
        self._process.start()

    def __getattr__(self, method: str) -> Any:
        """A method of the model; what it raises is raised here."""

        def called(*arguments: Any) -> Any:
            self._pipe.send((method, arguments))
            answer = self._pipe.recv()
            if isinstance(answer, Exception):
                raise answer
            return answer

        return called

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _answer(pipe: Connection, gguf: Path, vocabulary: int, context: int, flash: bool) -> None:
    model = LlamaModel(gguf, vocabulary, context=context, flash=flash)
    while (request := pipe.recv()) is not None:
        method, arguments = request
        try:
            answer = getattr(model, method)(*arguments)
        except Exception as error:
            answer = error
        pipe.send(answer)
    os._exit(0)  # past the handlers that crash


class LlamaModel:
    """One sequence on one thread, with KV in float32, as the engine has it on a CPU.

    Raises RuntimeError for what llama.cpp refuses.
    """

    def __init__(self, gguf: Path, vocabulary: int, *, context: int, flash: bool) -> None:
        """context: tokens; flash: use its flash attention where it would by itself, which rounds to
        float16 (log-probabilities are 1e-2 off at 1,000 tokens)"""
        self._vocabulary = vocabulary
        self._api = _load_library()
        # Past the fields spelled out below, the defaults travel through unread: both parameter
        # structs are passed by value with room to spare at the end.
        model = self._api.llama_model_load_from_file(
            str(gguf).encode(), self._api.llama_model_default_params()
        )
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {gguf}")
        parameters = self._api.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = context, _BATCH, _BATCH
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.type_k = parameters.type_v = _GGML_F32
        if not flash:
            parameters.flash_attn_type = _OFF
        self._context = self._api.llama_init_from_model(model, parameters)
        if not self._context:
            raise RuntimeError("llama.cpp cannot create a context")
        self._memory = self._api.llama_get_memory(self._context)

    def logprobs(self, tokens: Sequence[int], prompt: int) -> NDArray[np.float32]:
        """Of the next token after the first `prompt` tokens, read at once, and after each further
        token, read one by one: float32[len(tokens) - prompt + 1, vocabulary]."""
        self.clear()
        rows = [self._read(tokens[:prompt])]
        rows += [self._read([token]) for token in tokens[prompt:]]
        logits = np.stack(rows)
        logits -= logits.max(axis=-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return logits

    def clear(self) -> None:
        """Forget everything."""
        self._api.llama_memory_clear(self._memory, True)

    def read(self, tokens: Sequence[int]) -> tuple[int, float]:
        """Go on with `tokens`: the likeliest token after them, and seconds."""
        started = time.perf_counter()
        likeliest = int(self._read(tokens).argmax())
        return likeliest, time.perf_counter() - started

    def save(self, file: Path, tokens: Sequence[int]) -> tuple[int, float]:
        """Write the state after all `tokens`, and have it on the disk: bytes, and seconds."""
        ids = np.array(tokens, dtype=np.int32)
        started = time.perf_counter()
        written = self._api.llama_state_seq_save_file(
            self._context, str(file).encode(), 0, ids.ctypes.data, len(ids)
        )
        if not written:
            raise RuntimeError(f"llama.cpp cannot save its state as {file}")
        with file.open("rb") as saved:
            os.fsync(saved.fileno())
        return written, time.perf_counter() - started

    def restore(self, file: Path, most: int) -> tuple[int, float]:
        """Go on from a saved state of at most `most` tokens: how many it has, and seconds."""
        self.clear()
        ids, count = np.empty(most, dtype=np.int32), c.c_size_t()
        started = time.perf_counter()
        if not self._api.llama_state_seq_load_file(
            self._context, str(file).encode(), 0, ids.ctypes.data, most, c.byref(count)
        ):
            raise RuntimeError(f"llama.cpp cannot restore its state from {file}")
        return count.value, time.perf_counter() - started

    def rewind(self, tokens: int) -> bool:
        """Forget all but the first `tokens`; False if the model cannot, and must read them anew."""
        return bool(self._api.llama_memory_seq_rm(self._memory, 0, tokens, -1))

    def _read(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits after the last one: float32[vocabulary]."""
        for start in range(0, len(tokens), _BATCH):
            ids = np.array(tokens[start : start + _BATCH], dtype=np.int32)
            batch = self._api.llama_batch_get_one(ids.ctypes.data, len(ids))
            failed = self._api.llama_decode(self._context, batch)
            if failed:
                raise RuntimeError(f"llama_decode returned {failed}")
        last = self._api.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(last, (self._vocabulary,)).copy()


class _ModelParameters(c.Structure):
    _fields_ = (("all", c.c_ubyte * 512),)


class _ContextParameters(c.Structure):
    _fields_ = (
        ("n_ctx", c.c_uint32),
        ("n_batch", c.c_uint32),
        ("n_ubatch", c.c_uint32),
        ("n_seq_max", c.c_uint32),
        ("n_rs_seq", c.c_uint32),
        ("n_outputs_max", c.c_uint32),
        ("n_outputs_max_per_seq", c.c_uint32),
        ("n_threads", c.c_int32),
        ("n_threads_batch", c.c_int32),
        ("ctx_type", c.c_int32),
        ("rope_scaling_type", c.c_int32),
        ("pooling_type", c.c_int32),
        ("attention_type", c.c_int32),
        ("flash_attn_type", c.c_int32),
        ("rope_and_yarn", c.c_float * 6),
        ("yarn_orig_ctx", c.c_uint32),
        ("defrag_thold", c.c_float),
        ("cb_eval", c.c_void_p),
        ("cb_eval_user_data", c.c_void_p),
        ("type_k", c.c_int32),
        ("type_v", c.c_int32),
        ("rest", c.c_ubyte * 320),
    )


class _Batch(c.Structure):
    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", c.c_void_p),
        ("embd", c.c_void_p),
        ("pos", c.c_void_p),
        ("n_seq_id", c.c_void_p),
        ("seq_id", c.c_void_p),
        ("logits", c.c_void_p),
    )


_SIGNATURES = {
    "llama_backend_init": (None, []),
    "llama_model_default_params": (_ModelParameters, []),
    "llama_context_default_params": (_ContextParameters, []),
    "llama_model_load_from_file": (c.c_void_p, [c.c_char_p, _ModelParameters]),
    "llama_init_from_model": (c.c_void_p, [c.c_void_p, _ContextParameters]),
    "llama_batch_get_one": (_Batch, [c.c_void_p, c.c_int32]),
    "llama_decode": (c.c_int32, [c.c_void_p, _Batch]),
    "llama_get_logits_ith": (c.POINTER(c.c_float), [c.c_void_p, c.c_int32]),
    "llama_get_memory": (c.c_void_p, [c.c_void_p]),
    "llama_memory_clear": (None, [c.c_void_p, c.c_bool]),
    "llama_memory_seq_rm": (c.c_bool, [c.c_void_p, c.c_int32, c.c_int32, c.c_int32]),
    "llama_state_seq_save_file": (
        c.c_size_t,
        [c.c_void_p, c.c_char_p, c.c_int32, c.c_void_p, c.c_size_t],
    ),
    "llama_state_seq_load_file": (
        c.c_size_t,
        [c.c_void_p, c.c_char_p, c.c_int32, c.c_void_p, c.c_size_t, c.c_void_p],
    ),
}


@c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _: object) -> None:
    if level == _LOG_ERROR:
        logger.error("%s", text.decode(errors="replace").rstrip())


def _load_library() -> c.CDLL:
    import xllamacpp.xllamacpp  # loads the extension, which carries the C library

    api = c.CDLL(xllamacpp.xllamacpp.__file__)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(api, name)
        function.restype, function.argtypes = result, arguments
    api.llama_log_set(_log, None)
    api.llama_backend_init()
    return api
