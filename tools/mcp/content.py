"""What an MCP server answers, as parts of a result. All of it is as JSON has it on the wire."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from tools.results import FilePart, JsonPart, Part, TextPart


def parts_of(answer: dict[str, Any], most_bytes: int) -> tuple[Part, ...]:
    """The content of a tools/call result; its structured content only if there is no other.

    most_bytes: larger files are left out, with a line that says so
    """
    blocks = answer.get("content") or []
    parts = tuple(_part(block, most_bytes) for block in blocks)
    if not parts and answer.get("structuredContent") is not None:
        return (JsonPart(value=answer["structuredContent"]),)
    return parts


def part_of_resource(contents: dict[str, Any], most_bytes: int) -> Part:
    """One of the contents of a resource: its text, or a file named by its address."""
    if "text" in contents:
        return TextPart(content=str(contents["text"]))
    uri = str(contents.get("uri", ""))
    return _file(uri, contents.get("mimeType"), str(contents.get("blob", "")), most_bytes)


def _part(block: dict[str, Any], most_bytes: int) -> Part:
    match block.get("type"):
        case "text":
            return TextPart(content=str(block.get("text", "")))
        case "image" | "audio" as kind:
            return _file(str(kind), block.get("mimeType"), str(block.get("data", "")), most_bytes)
        case "resource":
            return part_of_resource(block.get("resource") or {}, most_bytes)
        case "resource_link":
            about = block.get("description") or block.get("name") or ""
            return TextPart(content=f"[resource {block.get('uri')}: {about}]")
        case kind:
            return TextPart(content=f"[left out: content of the unknown type {kind}]")


def _file(name: str, media_type: Any, data: str, most_bytes: int) -> Part:
    if len(data) * 3 // 4 - data[-2:].count("=") > most_bytes:
        return TextPart(content=f"[left out: {name}, over {most_bytes:,} bytes]")
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error:
        return TextPart(content=f"[left out: {name}, which is not base64]")
    kind = str(media_type or "application/octet-stream")
    return FilePart(name=name, media_type=kind, size=len(content), data=content)
