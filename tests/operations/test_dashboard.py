"""The dashboard, and the page, name metrics that are there."""

import json
import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = json.loads((REPOSITORY / "deploy" / "grafana" / "torpor.json").read_text())
COMPOSE = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


@pytest.fixture
async def exposed(http, session, turn):
    """Name -> labels, of every sample after something has happened."""
    session_id = (await session()).json()["id"]
    await turn(session_id)
    await http.post(f"/v1/sessions/{session_id}/suspend", json={})
    await http.post(f"/v1/sessions/{session_id}/resume", json={})
    await http.get("/v1/sessions/none")
    text = (await http.get("/metrics")).text
    names = {line.split()[2]: line.split()[3] for line in text.splitlines() if "# TYPE" in line}
    found = {}
    for name, kind in names.items():
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for part in parts:
            found[name + part] = set()
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rpartition(" ")[0].partition("{")
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_the_dashboard_has_a_panel_for_each_query():
    assert len(QUERIES) >= 20
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


async def test_every_query_names_a_metric_that_there_is(exposed):
    for query in QUERIES:
        named = re.findall(r"\b(?:torpor|gen_ai)_\w+", query)
        assert named, query
        for name in named:
            assert name in exposed, query
            grouped = re.search(r"by \(([^)]*)\)", query)
            labels = set(re.findall(r'(\w+)="', query))
            labels |= set(re.findall(r"\w+", grouped[1])) if grouped else set()
            if exposed[name]:
                assert labels <= exposed[name], query


async def test_every_metric_is_on_the_page(exposed):
    page = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")
    table = set(re.findall(r"`((?:torpor|gen_ai)_\w+)`", page))
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    assert table == {name for name in bare if not name.endswith("_created")}


def test_compose_mounts_what_there_is():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (REPOSITORY / source).exists(), volume
    scrape = yaml.safe_load((REPOSITORY / "deploy" / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["runtime:8700"]
    secret = Path(job["authorization"]["credentials_file"]).name
    assert secret in COMPOSE["secrets"]
    assert COMPOSE["services"]["prometheus"]["secrets"] == [secret]
