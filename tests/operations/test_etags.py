"""A session's head is its entity tag."""

import pytest

OTHER = '"snp-0123456789abcdef-0123456789abcdef0123456789abcdef"'
SAYS = {"messages": [{"role": "user", "content": "Hello."}]}


def problem(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, answer.json()["code"]


async def test_the_tag_is_the_head(http, session, turn):
    made = await session()
    path = f"/v1/sessions/{made.json()['id']}"
    assert made.headers["etag"] == '""'
    result = await turn(made.json()["id"])
    read = await http.get(path)
    assert read.headers["etag"] == f'"{result["snapshot"]}"'
    forked = await http.post(f"{path}/fork", json={})
    assert forked.headers["etag"] == read.headers["etag"]
    rewound = await http.post(f"{path}/rewind", json={"turns": 1})
    assert rewound.headers["etag"] == '""'


async def test_what_a_client_has_is_not_sent_again(http, session, turn):
    session_id = (await session()).json()["id"]
    path = f"/v1/sessions/{session_id}"
    tag = (await http.get(path)).headers["etag"]
    for known in (tag, f"W/{tag}", f"{OTHER}, {tag}", "*"):
        answer = await http.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    await turn(session_id)
    answer = await http.get(path, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.json()["id"]) == (200, session_id)


CHANGES = [
    ("POST", "/turns", SAYS),
    ("POST", "/suspend", {}),
    ("POST", "/fork", {}),
    ("POST", "/forks", {"count": 2}),
    ("POST", "/rewind", {"turns": 1}),
    ("DELETE", "", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize("match", [OTHER, '""', f"{OTHER}, {OTHER}", "W/{tag}"])
async def test_nothing_is_done_on_another_head(http, session, turn, method, path, body, match):
    session_id = (await session()).json()["id"]
    await turn(session_id)
    base = f"/v1/sessions/{session_id}"
    before = await http.get(base)
    headers = {"If-Match": match.format(tag=before.headers["etag"])}
    answer = await http.request(method, base + path, json=body, headers=headers)
    assert problem(answer) == (412, "head_moved")
    assert (await http.get(base)).json() == before.json()
    assert len((await http.get(f"{base}/tree")).json()["sessions"]) == 1


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
@pytest.mark.parametrize("match", ["{tag}", OTHER + ", {tag}", "*"])
async def test_what_fits_the_head_is_done(http, session, turn, script, method, path, body, match):
    session_id = (await session()).json()["id"]
    await turn(session_id)
    base = f"/v1/sessions/{session_id}"
    tag = (await http.get(base)).headers["etag"]
    script("Again.")
    headers = {"If-Match": match.format(tag=tag)}
    answer = await http.request(method, base + path, json=body, headers=headers)
    assert answer.status_code in (200, 201, 204), answer.text


async def test_the_body_says_the_same_with_its_own_status(http, session, turn):
    session_id = (await session()).json()["id"]
    await turn(session_id)
    path = f"/v1/sessions/{session_id}/suspend"
    answer = await http.post(path, json={"expected_head": ""})
    assert problem(answer) == (409, "head_moved")
    answer = await http.post(path, json={"expected_head": ""}, headers={"If-Match": OTHER})
    assert problem(answer) == (400, "bad_request")


@pytest.mark.parametrize("header", ["snp-1", '"a" "b"', ""])
async def test_what_is_no_tag_is_refused(http, session, header):
    path = f"/v1/sessions/{(await session()).json()['id']}"
    answer = await http.get(path, headers={"If-None-Match": header})
    assert problem(answer) == (400, "bad_request")
    answer = await http.delete(path, headers={"If-Match": header})
    assert problem(answer) == (400, "bad_request")
    assert (await http.get(path)).status_code == 200
