"""Everything the engine package raises.

EngineError
├── EngineUnreachable  no answer: not started, dead, or cut off in the middle
├── EngineRefused      the engine answered a request with an error
│   ├── GrammarRefused  an answer cannot be held to the schema, pattern or grammar that was given
│   ├── BackendUnauthorized  a backend does not accept the key
│   └── BackendBusy    a backend wants to be asked later
├── BackendMalformed   a backend does not speak the protocol
├── BackendKeyMissing  the environment variable of a backend's key is not set
├── LoadFailed         stored state could not be loaded for a request; nothing was generated
├── EngineBusy         it still runs requests after the time it was given
├── NoEngine           no live engine fits the session
├── UnsupportedModel   the engine's state is of a kind that snapshots do not support
├── UnsupportedLayout  the engine's ranks are arranged as snapshots do not support
├── UnsupportedOption  an option of SGLang's with which sessions would be answered wrongly
├── PatchError         a change that we make to SGLang cannot be made, or did not take effect
├── EngineStartFailed  the engine process could not be started
│   └── OtherEngineLives  one is registered under its id
└── ImpossiblePlan     what was asked for does not fit the hardware or the model
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of the engine's errors. The message says what happened and what to do."""


class EngineUnreachable(EngineError):
    pass


class EngineRefused(EngineError):
    pass


class GrammarRefused(EngineRefused):
    pass


class BackendUnauthorized(EngineRefused):
    pass


class BackendBusy(EngineRefused):
    """`retry_after`: seconds that it wants to be left alone, None if it does not say."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendMalformed(EngineError):
    pass


class BackendKeyMissing(EngineError):
    pass


class LoadFailed(EngineError):
    pass


class EngineBusy(EngineError):
    pass


class NoEngine(EngineError):
    pass


class UnsupportedModel(EngineError):
    pass


class UnsupportedLayout(EngineError):
    pass


class UnsupportedOption(EngineError):
    pass


class PatchError(EngineError):
    pass


class EngineStartFailed(EngineError):
    pass


class OtherEngineLives(EngineStartFailed):
    """`url`: of the other engine."""

    def __init__(self, message: str, url: str) -> None:
        super().__init__(message)
        self.url = url


class ImpossiblePlan(EngineError):
    pass
