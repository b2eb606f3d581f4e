"""Everything that `tools` raises.

ToolsError
├── BadDefinition   a function cannot become a tool, or two tools share a name: fix the code
├── FolderMissing   the folder that a tool should work in is not there: name another
├── LedgerHeld      another process has the ledger's file open
├── LedgerDamaged   a ledger's file cannot be read whole: what it names may have happened
└── ToolFailed      raised inside a tool; its message is the result that the model reads
"""


class ToolsError(Exception):
    """Base of all errors of this package."""


class BadDefinition(ToolsError):
    """A function, or a set of tools, that cannot be offered to a model."""


class FolderMissing(ToolsError):
    """The folder given to a tool does not exist or is not a folder."""


class LedgerHeld(ToolsError):
    """A ledger's file is open in another process."""


class LedgerDamaged(ToolsError):
    """A ledger's file is not whole; nothing in it was changed."""


class ToolFailed(ToolsError):
    """A tool could not do what it was asked. The message tells the model what to do instead."""
