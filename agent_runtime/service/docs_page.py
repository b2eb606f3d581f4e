"""`/docs`: every operation of the API on a plain page, in place of FastAPI's.

That one runs scripts from elsewhere in whatever else this address shows. This one runs none, loads
nothing, and holds nothing of anybody, so that it needs no key.
"""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from agent_runtime.http.pages import page_headers

PATH = "/docs"

router = APIRouter(include_in_schema=False)

_HEADERS = page_headers() | {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
}
_KEYS = """<h2>Keys</h2>
<p>Requests need an API key, in one of these headers; <code>torpor keys create</code> makes one.
A viewer that has read the document asks for it.</p>
<pre>curl -H 'Authorization: Bearer KEY' {place}openapi.json
curl -H 'X-Api-Key: KEY' {place}v1/sessions</pre>"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} API</title>
</head>
<body>
<h1>{title} {version}</h1>
<p><a href="openapi.json">openapi.json</a> describes every request and answer, for viewers and
generators of clients. <a href="console">The console</a> shows sessions. What the operations do is
in <code>README.md</code> and <code>docs/</code> of the source.</p>
{keys}
<h2>Operations</h2>
<table>
<tr><th align="left">method</th><th align="left">path</th><th align="left">what it does</th></tr>
{rows}
</table>
</body>
</html>
"""


@router.get(PATH)
async def page(request: Request) -> Response:
    app: FastAPI = request.app
    return Response(_page(app.openapi(), str(request.base_url)), headers=_HEADERS)


def _page(document: dict[str, Any], place: str) -> str:
    """place: URL under which the client reaches the service, ending in a slash"""
    with_keys = "securitySchemes" in document["components"]
    rows = [
        f"<tr><td>{escape(method.upper())}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(operation.get('summary', ''))}</td></tr>"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return _PAGE.format(
        title=escape(document["info"]["title"]),
        version=escape(document["info"]["version"]),
        keys=_KEYS.format(place=escape(place)) if with_keys else "",
        rows="\n".join(rows),
    )
