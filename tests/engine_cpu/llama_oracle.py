"""llama.cpp as a reference: an implementation of Nemotron-H that shares no code with SGLang's,
transformers' or ours. Driven by ctypes through the C library inside the `xllamacpp` wheel, whose
Python interface takes text only.
"""

from __future__ import annotations

import ctypes as c
import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_GGML_F32 = 0
_OFF = 0
_LOG_ERROR = 4
_BATCH = 512


class LlamaProcess:
    """A LlamaModel in a process of its own: the extension crashes an interpreter at its exit."""

    def __init__(self, gguf: Path, vocabulary: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, gguf, vocabulary))
        self._process.start()

    def logprobs(self, tokens: list[int], prompt: int) -> Tensor:
        """See LlamaModel."""
        self._pipe.send((tokens, prompt))
        return torch.from_numpy(self._pipe.recv())

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _answer(pipe: Connection, gguf: Path, vocabulary: int) -> None:
    model = LlamaModel(gguf, vocabulary)
    while (request := pipe.recv()) is not None:
        pipe.send(model.logprobs(*request).numpy())
    os._exit(0)  # past the handlers that crash


class LlamaModel:
    """One sequence on one thread, with a float32 KV cache."""

    def __init__(self, gguf: Path, vocabulary: int, context: int = 2048) -> None:
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
        parameters.flash_attn_type = _OFF  # it rounds to float16: 1e-2 off at 1,000 tokens
        parameters.type_k = parameters.type_v = _GGML_F32
        self._context = self._api.llama_init_from_model(model, parameters)
        if not self._context:
            raise RuntimeError("llama.cpp cannot create a context")

    def logprobs(self, tokens: list[int], prompt: int) -> Tensor:
        """Of the next token after the first `prompt` tokens, read at once, and after each further
        token, read one by one: float32[len(tokens) - prompt + 1, vocabulary]."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        rows = [self._read(tokens[:prompt])]
        rows += [self._read([token]) for token in tokens[prompt:]]
        return torch.from_numpy(np.stack(rows)).log_softmax(-1)

    def _read(self, tokens: list[int]) -> np.ndarray:
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
}


@c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
def _log(level: int, text: bytes, _: object) -> None:
    if level >= _LOG_ERROR:
        print(text.decode(errors="replace"), end="")


def _load_library() -> c.CDLL:
    import xllamacpp.xllamacpp  # loads the extension, which carries the C library

    api = c.CDLL(xllamacpp.xllamacpp.__file__)
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(api, name)
        function.restype, function.argtypes = result, arguments
    api.llama_log_set(_log, None)
    api.llama_backend_init()
    return api
