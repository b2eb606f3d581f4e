"""Everything the runtime raises.

TorporError
├── BadRequest            what the caller sent cannot be served as it is
│   ├── InvalidRequest    the client library is given fields that its request cannot have
│   ├── TemplateRewrites  what new messages append cannot be told from what was there
│   ├── UnknownOption     the model's chat template does not know an option
│   ├── FilesNotKept      a fork is to begin where the files of a turn are not kept any more
│   ├── NoMessages        a history is to be rendered anew, and its messages are not known
│   ├── ContextFull       the turn does not fit the model's context
│   ├── BodyTooLarge      an import is larger than the service takes
│   ├── BodyTimeout           no more of an import came for a while
│   ├── AsyncOnly         a saver's or store's synchronous method
│   ├── UnknownTool       a call is required of a tool that the session does not have
│   ├── ToolsDiffer       a framework declares tools that its session does not have
│   ├── TextOnly          an image or another content that is no text
│   ├── WrongMessage      a framework's message that has no place in the conversation
│   ├── BadVerdict        a person's answer does not fit what was asked
│   ├── CallsWaiting      a message comes to a thread in which a person is asked about calls
│   ├── NoSemanticSearch  a memory is searched by meaning
│   ├── Unsupported       an option of another API that would have no effect here
│   │   └── ThreadUnsupportedRequest  a thread of Anthropic's, whose clients go on without
│   ├── PreviousResponseNotFound  a response is to follow one that is not there
│   ├── LastResponseGone  a conversation is to go on behind a response that is not there
│   └── NeedsState        what a backend that keeps no state cannot do
├── Unauthorized          no API key, or one that is not valid
├── Forbidden             the key's role does not allow it
├── RateLimited           the key has made all the requests that it may for now
├── NotFound              no such session or snapshot
├── ModelNotFound         a model is asked for that this runtime does not serve
├── ConversationLocked    a conversation of OpenAI's API is being gone on with
├── HeadMoved             somebody else moved the session since the caller looked
├── TurnLost              a turn was answered and could not be committed
├── TooManySteps          an agent's exchange is longer than it may be
├── FilesUncommitted      files of a session were kept and are in no snapshot: say what is wanted
├── KeptTurnsRefused      turns of an outage cannot be committed: the session was moved meanwhile
├── CheckpointLost        a graph's checkpoint is not whole any more
├── NoBackend             no backend here answers this session, which has no state
├── NoModel               no tokenizer here for this session, whose history is token ids
├── NotHeld               nothing of the session could be kept on a device
├── Overloaded            too many turns wait for the engine already; nothing was generated
├── KeyReused             an idempotency key came with another request before
├── StillRunning          what an idempotency key was first used for is not done yet
├── NothingInterrupted    no turn of the session was cut short by the end of its runtime
├── Cancelled             somebody asked to end the turn while it was generated
├── Draining              this runtime is being stopped and takes no turns
├── ClientGone            nobody waits for the answer any more
├── NothingReused         strict mode: the resume would recompute everything
├── Unavailable           engine or store cannot be reached; nothing was lost
└── SetupError            a process could not be started: model files, port, Redis URL

Each carries `code`, a stable word for clients, and `status`, its HTTP status.
"""

from __future__ import annotations


class TorporError(Exception):
    """Base of the runtime's errors. The message says what happened and what to do."""

    code = "internal"
    status = 500


class BadRequest(TorporError):
    """param: the part of the request that it is about, as in `messages[0].content`"""

    code = "bad_request"
    status = 400
    param: str | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(BadRequest):
    """Raised before anything is sent; the service refuses the same by the same code."""

    code = "invalid_request"
    status = 422


class TemplateRewrites(BadRequest):
    code = "template_rewrites"


class UnknownOption(BadRequest):
    code = "unknown_option"


class FilesNotKept(BadRequest):
    """between: token counts of the two nearest places where a fork has its files"""

    code = "files_not_kept"
    status = 409

    def __init__(self, message: str, *, between: tuple[int, int]) -> None:
        super().__init__(message, param="tokens")
        self.between = between


class NoMessages(BadRequest):
    code = "no_messages"
    status = 409


class ContextFull(BadRequest):
    code = "context_full"
    status = 413


class BodyTooLarge(BadRequest):
    code = "body_too_large"
    status = 413


class BodyTimeout(BadRequest):
    code = "body_timeout"
    status = 408


class AsyncOnly(BadRequest, NotImplementedError):
    code = "async_only"


class UnknownTool(BadRequest):
    code = "unknown_tool"


class ToolsDiffer(BadRequest):
    code = "tools_differ"


class TextOnly(BadRequest):
    code = "text_only"


class WrongMessage(BadRequest):
    code = "wrong_message"


class BadVerdict(BadRequest):
    code = "bad_verdict"


class CallsWaiting(BadRequest):
    code = "calls_waiting"
    status = 409


class NoSemanticSearch(BadRequest):
    code = "no_semantic_search"


class PreviousResponseNotFound(BadRequest):
    code = "previous_response_not_found"


class LastResponseGone(BadRequest):
    code = "last_response_gone"


class NeedsState(BadRequest):
    code = "needs_state"


class Unsupported(BadRequest):
    code = "unsupported"


class ThreadUnsupportedRequest(Unsupported):
    code = "thread_unsupported_request"


class Unauthorized(TorporError):
    code = "unauthorized"
    status = 401


class Forbidden(TorporError):
    code = "forbidden"
    status = 403


class RateLimited(TorporError):
    """retry_after: seconds"""

    code = "rate_limited"
    status = 429

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CheckpointLost(TorporError):
    code = "checkpoint_lost"
    status = 410


class NotFound(TorporError):
    code = "not_found"
    status = 404


class ModelNotFound(TorporError):
    code = "model_not_found"
    status = 404
    param = "model"


class ConversationLocked(TorporError):
    """retry_after: seconds"""

    code = "conversation_locked"
    status = 409
    retry_after = 1.0


class HeadMoved(TorporError):
    code = "head_moved"
    status = 409


class TurnLost(TorporError):
    """result: the TurnResult, for who wants to read what the model said"""

    code = "turn_lost"
    status = 503

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


class TooManySteps(TorporError):
    code = "too_many_steps"
    status = 409


class FilesUncommitted(TorporError):
    code = "files_uncommitted"
    status = 409


class KeptTurnsRefused(TorporError):
    code = "kept_turns_refused"
    status = 409


class NoBackend(TorporError):
    code = "no_backend"
    status = 503


class NoModel(TorporError):
    code = "no_model"
    status = 503


class NotHeld(TorporError):
    code = "not_held"
    status = 409


class Overloaded(TorporError):
    """retry_after: seconds after which there may be room."""

    code = "overloaded"
    status = 429

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class KeyReused(TorporError):
    code = "key_reused"
    status = 422


class StillRunning(TorporError):
    """retry_after: seconds"""

    code = "still_running"
    status = 409
    retry_after = 1.0


class NothingInterrupted(TorporError):
    code = "nothing_interrupted"
    status = 409


class Cancelled(TorporError):
    code = "cancelled"
    status = 409


class Draining(TorporError):
    """retry_after: seconds"""

    code = "draining"
    status = 503
    retry_after = 1.0


class ClientGone(TorporError):
    code = "client_gone"
    status = 499


class NothingReused(TorporError):
    code = "nothing_reused"
    status = 409


class Unavailable(TorporError):
    code = "unavailable"
    status = 503


class SetupError(TorporError):
    code = "setup"
