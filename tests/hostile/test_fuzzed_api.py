"""Thousands of requests that were made from the OpenAPI document, right and wrong ones."""

import httpx
import pytest

from tests.hostile.fuzzing import fuzz

pytestmark = pytest.mark.timeout(900)


def operations(url, key):
    headers = {"Authorization": f"Bearer {key}"}
    document = httpx.get(f"{url}/openapi.json", headers=headers, trust_env=False).json()
    return sum(len(methods) for methods in document["paths"].values())


@pytest.mark.slow
def test_every_answer_to_thousands_of_requests_is_as_documented(keyed, key, tmp_path):
    report = fuzz(keyed.url, tmp_path, phases="coverage,fuzzing,stateful", examples=10, key=key)
    assert report["operations"]["tested"] == operations(keyed.url, key) >= 37
    assert report["test_cases"]["generated"] >= 2000
    assert (report["failures"], report["errors"]) == ([], [])
    assert httpx.get(f"{keyed.url}/health", trust_env=False).status_code == 200
