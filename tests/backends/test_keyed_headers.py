"""A key comes in one of two headers."""

import httpx

from tests.backends.scripted import scripted_runtime


async def test_two_keys_at_once_are_refused_unless_they_are_one(bare_store, said, store):
    async with scripted_runtime(bare_store.url, said, require_keys=True) as app:
        acme, globex = [(await store.keys.create(name))[1] for name in ("acme", "globex")]
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://scripted") as client:

            async def asked(bearer, other):
                headers = {"Authorization": f"Bearer {bearer}", "X-Api-Key": other}
                return await client.get("/v1/sessions", headers=headers)

            refused = await asked(acme, globex)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
            assert "two different keys" in refused.json()["detail"]
            assert (await asked(acme, acme)).status_code == 200
