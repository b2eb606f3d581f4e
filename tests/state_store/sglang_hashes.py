"""SGLang's own page hashes, in a process of its own: a line of JSON in, a line of JSON out.

In: {"tokens", "page_size", "salt", "bigram", "prior"}. Out: the hashes that SGLang computes.
"""

import json
import sys
from array import array

from engine.cpu import imports

imports.install()

from sglang.srt.mem_cache.radix_cache import RadixKey  # noqa: E402
from sglang.srt.mem_cache.utils import get_storage_hash_str  # noqa: E402

for line in sys.stdin:
    case = json.loads(line)
    key = RadixKey(array("q", case["tokens"]), cache_salt=case["salt"], is_bigram=case["bigram"])
    whole = key[: len(key) // case["page_size"] * case["page_size"]]
    hashes = get_storage_hash_str(whole, case["prior"], page_size=case["page_size"])
    print(json.dumps(hashes), flush=True)
