"""How the payload of a stored object may be written in fewer bytes than it has on the device.

    economy class of a session ──(kind)──> encoding ──(layout of the part)──> stored bytes

`economy.py` names the classes, `segments.py` says which bytes of a payload hold which dtype,
`blocks.py` rounds blocks of numbers, and `parts.py` encodes and decodes the part of a payload
that one object holds. Only numpy is needed, so that tools and servers without torch can decode.
"""

from state_store.encodings.economy import ECONOMIES, LOSSLESS, Economy, economy_named
from state_store.encodings.parts import Encoded, decode, encode
from state_store.encodings.segments import Encoding, PayloadLayout, Segment

__all__ = [
    "ECONOMIES",
    "LOSSLESS",
    "Economy",
    "Encoded",
    "Encoding",
    "PayloadLayout",
    "Segment",
    "decode",
    "economy_named",
    "encode",
]
