"""What moves between Redis and the archive say of themselves."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Moved:
    """What a move did.

    objects, bytes: moved, on all ranks; a content of files is one
    already:        were there before
    busy:           stay because somebody else has used them lately
    left:           stay because they changed under the move, are held by nobody any more, or are
                    not whole in Redis
    problems:       what was found damaged, in words
    """

    objects: int = 0
    bytes: int = 0
    already: int = 0
    busy: int = 0
    left: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Moved) -> None:
        """What another move did besides."""
        self.objects += other.objects
        self.bytes += other.bytes
        self.already += other.already
        self.busy += other.busy
        self.left += other.left
        self.problems += other.problems
