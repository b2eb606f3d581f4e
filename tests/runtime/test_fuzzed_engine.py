"""Requests made from the OpenAPI document, right and wrong ones, to a service with an engine."""

import httpx
import pytest

from tests.hostile.fuzzing import fuzz

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.timeout(1500),
]


def test_an_engine_behind_the_service_changes_nothing_about_its_answers(stage, tmp_path):
    phases = "coverage,fuzzing,stateful"
    report = fuzz(stage.runtime.url, tmp_path, phases=phases, examples=12, has_engine=True)
    assert report["test_cases"]["generated"] >= 5000
    assert (report["failures"], report["errors"]) == ([], [])
    assert stage.engine.is_alive()
    assert httpx.get(f"{stage.runtime.url}/ready", trust_env=False).json()["ready"]
