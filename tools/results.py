"""What a tool gives back: text, JSON and files, how it ended, and how what is too long is cut."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt
from pydantic_core import to_json, to_jsonable_python


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64"
    )


class TextPart(_Part):
    """Text for the model."""

    kind: Literal["text"] = "text"
    content: str

    @property
    def text(self) -> str:
        return self.content


class JsonPart(_Part):
    """A value that JSON can say; the model reads it as JSON."""

    kind: Literal["json"] = "json"
    value: Any

    @property
    def text(self) -> str:
        return to_json(self.value).decode()


class FilePart(_Part):
    """A file, at `path` or in `data`; the model reads its name, type and size only.

    size: bytes
    """

    kind: Literal["file"] = "file"
    name: str
    media_type: str
    size: StrictInt
    path: Path | None = None
    data: bytes | None = Field(default=None, repr=False)

    @property
    def text(self) -> str:
        return f"[file {self.name}: {self.media_type}, {self.size:,} bytes]"


Part = Annotated[TextPart | JsonPart | FilePart, Field(discriminator="kind")]


class Ending(StrEnum):
    """How a call ended.

    done:      the tool returned
    refused:   it never ran: wrong arguments, no such tool, not allowed
    failed:    the tool itself says that it could not do what it was asked
    broken:    it raised something that it should not have
    timed_out: it was given up
    unknown:   it was started, and nobody knows whether it ended
    """

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    BROKEN = "broken"
    TIMED_OUT = "timed_out"
    UNKNOWN = "unknown"

    @property
    def leaves_doubt(self) -> bool:
        """Whether the tool may have done what it was asked, or a part of it, all the same."""
        return self in (Ending.BROKEN, Ending.TIMED_OUT, Ending.UNKNOWN)


class ToolResult(BaseModel):
    """parts: what the tool gave, in its order; for every ending but `done`, what was wrong and
           what to do
    notes: what people should know and the model need not: ambiguous arguments, repeated attempts
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64"
    )

    parts: tuple[Part, ...] = ()
    ending: Ending = Ending.DONE
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Any) -> ToolResult:
        """From what a tool returned: a ToolResult, a part, a string, or anything JSON can say.

        A list with parts is a result of several; other lists are JSON. Raises
        PydanticSerializationError for what JSON cannot say.
        """
        if isinstance(value, ToolResult):
            return value
        if isinstance(value, list | tuple) and any(isinstance(one, _Part) for one in value):
            return cls(parts=tuple(_part(one) for one in value))
        return cls(parts=(_part(value),))

    @classmethod
    def failed(cls, why: str, ending: Ending = Ending.FAILED) -> ToolResult:
        """why: what was wrong and what to do, for the model"""
        return cls(parts=(TextPart(content=why),), ending=ending)

    @property
    def text(self) -> str:
        """What the model reads."""
        return "\n".join(part.text for part in self.parts)

    @property
    def error(self) -> bool:
        return self.ending is not Ending.DONE

    @property
    def files(self) -> tuple[FilePart, ...]:
        return tuple(part for part in self.parts if isinstance(part, FilePart))

    def noted(self, *notes: str) -> ToolResult:
        return self.model_copy(update={"notes": (*self.notes, *notes)})

    def cut(self, most: int, rest: str) -> ToolResult:
        """At most `most` characters of text and JSON, from the beginning and the end; files stay.

        rest: how the model gets what is left out, a sentence; `{start}` in it becomes the number
              of the first character that is missing, from 1
        """
        shown = [part for part in self.parts if not isinstance(part, FilePart)]
        text = "\n".join(part.text for part in shown)
        if len(text) <= most:
            return self
        cut = TextPart(content=cut_text(text, most, rest))
        return self.model_copy(update={"parts": (cut, *self.files)})


def cut_text(text: str, most: int, rest: str) -> str:
    """The head and the tail of a text that is longer than `most` characters, and between them one
    line that says what is left out and how to get it. They end at line ends if these are near."""
    if len(text) <= most:
        return text
    tail_most = most // 3
    head = text[: most - tail_most]
    tail = text[len(text) - tail_most :]
    line_end = head.rfind("\n")
    if line_end > len(head) * 3 // 4:
        head = head[: line_end + 1]
    line_start = tail.find("\n") + 1
    if 0 < line_start < len(tail) // 4:
        tail = tail[line_start:]
    first, last = len(head) + 1, len(text) - len(tail)
    lines = (text.count("\n", 0, end - 1) + 1 for end in (first, last))
    where = ", lines {:,} to {:,}".format(*lines) if "\n" in text else ""
    rest = rest.replace("{start}", str(first))
    note = f"[left out: characters {first:,} to {last:,} of {len(text):,}{where}. {rest}]"
    return "\n".join((head.removesuffix("\n"), note, tail)).removesuffix("\n")


def _part(value: Any) -> TextPart | JsonPart | FilePart:
    if isinstance(value, TextPart | JsonPart | FilePart):
        return value
    if isinstance(value, str):
        return TextPart(content=value)
    return JsonPart(value=to_jsonable_python(value))
