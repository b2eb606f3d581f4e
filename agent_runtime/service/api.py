"""The HTTP service. Its routes are in `routes/` and in the packages of other APIs.

What every request passes through, whatever it asks for, is in `service/`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import Depends, FastAPI

from agent_runtime.access import key_routes, tenant_routes
from agent_runtime.anthropic_api import routes as anthropic_routes
from agent_runtime.console import routes as console_routes
from agent_runtime.feed.following import Followers
from agent_runtime.feed.posting import Feed
from agent_runtime.http.document import problems
from agent_runtime.http.metrics import Measured, Metrics
from agent_runtime.http.request_ids import RequestIds
from agent_runtime.mcp_server.mounted import Mounted
from agent_runtime.messages.chat import ChatFormat
from agent_runtime.openai_api import chat_routes as openai_chat_routes
from agent_runtime.openai_api.responses import conversation_routes as response_conversation_routes
from agent_runtime.openai_api.responses import routes as response_routes
from agent_runtime.openai_api.responses.service import Responses
from agent_runtime.openai_api.served import Served
from agent_runtime.routes import effects as effect_routes
from agent_runtime.routes import events as feed_routes
from agent_runtime.routes import holding as holding_routes
from agent_runtime.routes import items as item_routes
from agent_runtime.routes import models as model_routes
from agent_runtime.routes import sessions as session_routes
from agent_runtime.routes import snapshots as snapshot_routes
from agent_runtime.routes import turns as turn_routes
from agent_runtime.routes import versions as version_routes
from agent_runtime.routes import workspaces as workspace_routes
from agent_runtime.scheduling.residency import Residency
from agent_runtime.service import answers, docs_page, operation_routes, operations
from agent_runtime.service.bodies import Bodies
from agent_runtime.service.guard import OPEN, Guard
from agent_runtime.service.heads import Heads
from agent_runtime.service.hosts import Hosts
from agent_runtime.service.openapi import document_keys
from agent_runtime.service.queries import known_query
from agent_runtime.service.traces import Traced
from agent_runtime.sessions.choices import Choices
from agent_runtime.sessions.conversations import Conversations
from agent_runtime.sessions.draining import Drain
from agent_runtime.sessions.holding import Holding
from agent_runtime.sessions.listing import Listing
from agent_runtime.sessions.sessions import Sessions
from agent_runtime.sessions.versions import Versions
from agent_runtime.settings import RuntimeSettings
from agent_runtime.telemetry import Telemetry, no_telemetry
from agent_runtime.turns.stateless import Stateless
from agent_runtime.turns.turns import Turns
from engine.backends.chat import Backend
from engine.errors import EngineError
from engine.pool import EnginePool
from state_store.errors import StoreError
from state_store.store import StateStore

logger = logging.getLogger(__name__)

_LOOK = 30.0  # seconds between looks at what there is, for the metrics


def create_app(settings: RuntimeSettings, telemetry: Telemetry | None = None) -> FastAPI:
    """The service over one store and the engines registered in it.

    telemetry: where traces and metrics go besides `/metrics`; None: nowhere
    """
    telemetry = telemetry or no_telemetry()
    chat = None if settings.model_dir is None else ChatFormat(settings.model_dir)
    backend = None if settings.backend is None else Backend(settings.backend)

    model = settings.served_model or (None if backend is None else backend.settings.model)
    metrics = Metrics(
        telemetry, model=model, tenant=settings.tenant, named_tenants=settings.metrics_tenants
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with await StateStore.connect(
            settings.redis_url,
            prefix=settings.prefix,
            archive=settings.archive_url,
            vault=settings.vault(),
        ) as store:
            pool, residency = EnginePool(store, router=settings.router), Residency()
            app.state.store, app.state.pool = store, pool
            feed, followers = Feed(store), Followers(store)
            feed.posted = followers.posted
            residency.when_moved(feed.moved)
            app.state.followers = followers
            stateless = Stateless(store, backend, only=chat is None)
            turns = app.state.turns = Turns(store, pool, chat, residency, settings, stateless, feed)
            sessions = Sessions(store, pool, turns, residency, settings, feed)
            app.state.sessions = sessions
            app.state.drain = Drain(turns, sessions, residency, feed, followers)
            app.state.listing = Listing(store, pool, sessions, turns, settings)
            app.state.holding = Holding(store, pool, turns, residency)
            app.state.versions = Versions(store, sessions, turns, settings, feed)
            conversations = Conversations(store, sessions, turns, settings)
            app.state.conversations = conversations
            app.state.choices = Choices(store, conversations, sessions, turns)
            app.state.responses = Responses(
                store,
                sessions,
                turns,
                conversations,
                app.state.served,
                chat,
                settings,
                app.state.metrics,
            )
            # Not waited for: the whole archive is listed.
            recovering = asyncio.create_task(_recover_now_and_then(app))
            looking = asyncio.create_task(_look_now_and_then(app))
            async with mcp.running():
                yield
            recovering.cancel()
            looking.cancel()
            await asyncio.wait([recovering, looking])
            await app.state.responses.close()
            await turns.close()
            await feed.close()
            await followers.close()
            await pool.close()
            if backend is not None:
                await backend.close()

    app = FastAPI(
        title="Torpor",
        version=version("torpor"),
        lifespan=lifespan,
        docs_url=None,  # `docs_page` is in its place
        redoc_url=None,
    )
    app.state.settings, app.state.metrics = settings, metrics
    app.state.chat = chat
    app.state.served = Served(settings, since=time.time())
    mcp = Mounted(app, settings)
    ours = [Depends(known_query)]  # of routes that are no other protocol's
    answers.add_to(app)
    # The last is the outermost.
    app.add_middleware(Heads)
    app.add_middleware(Bodies, limits=settings.body_limits, open_to_all=OPEN)
    if settings.require_keys:
        app.add_middleware(
            Guard,
            store=lambda: app.state.store,
            standing_tenant=lambda session_id: app.state.turns.outage.tenant_of(session_id),
            outage_seconds=settings.outage_key_seconds,
        )
        app.include_router(key_routes.router, dependencies=ours)
        app.include_router(tenant_routes.router, dependencies=ours)
        document_keys(app)
    app.add_middleware(Traced, tracer=telemetry.tracer)
    app.add_middleware(Measured, metrics=metrics)
    app.add_middleware(RequestIds)
    if not settings.require_keys:
        app.add_middleware(Hosts, allowed=settings.answers_to)
    for routes in (
        session_routes, snapshot_routes, holding_routes, turn_routes, version_routes, item_routes,
        effect_routes, workspace_routes, feed_routes,
    ):  # fmt: skip
        app.include_router(routes.router, dependencies=ours)
    for routes in (
        operation_routes, model_routes, response_routes,
        response_conversation_routes, openai_chat_routes,
        anthropic_routes, console_routes, docs_page,
    ):  # fmt: skip
        app.include_router(routes.router)

    @app.get("/health", responses=problems(StoreError))
    async def health() -> dict[str, object]:
        records = await app.state.pool.records()
        served = records or settings.model_dir is None
        status = "ok" if served else "no engine"
        model = None if settings.backend is None else settings.backend.model
        return {"status": status, "engines": len(records), "backend": model}

    operations.describe(app)
    return app


async def _look_now_and_then(app: FastAPI) -> None:
    """For who is sent the metrics, and does not ask for them."""
    while True:
        try:
            await operation_routes.look(app)
        except Exception:  # whatever it is, the next look may find it gone
            logger.exception("the metrics are of the look before")
        await asyncio.sleep(_LOOK)


async def _recover_now_and_then(app: FastAPI) -> None:
    """What others leave when they die is found while this one lives; and what one left that was
    started again at once, by itself, is not old enough at its start."""
    settings: RuntimeSettings = app.state.settings
    older_than = settings.lease_ttl * 2
    await _recover(app, older_than)
    await asyncio.sleep(min(older_than, settings.recovery_interval))
    while True:
        await _recover(app, older_than)
        await asyncio.sleep(settings.recovery_interval)


async def _recover(app: FastAPI, older_than: float) -> None:
    store: StateStore = app.state.store
    metrics: Metrics = app.state.metrics
    turns: Turns = app.state.turns
    sessions: Sessions = app.state.sessions
    try:
        recovered = await store.recover(older_than=older_than)
        metrics.collected("snapshots", recovered.snapshots)
        metrics.collected("archived", recovered.collected.condemned)
        metrics.collected("orphans", recovered.collected.orphans)
        logger.info("recovered: %s", recovered)
        unfinished = await turns.unfinished.collect(
            lambda session_id, head: sessions.delete(session_id, expected_head=head)
        )
        metrics.collected("unfinished", unfinished)
    except (StoreError, EngineError) as error:
        logger.error("recovery is left to the next time, or to another runtime: %s", error)
    except Exception:  # whatever it is, the next time may find it gone
        logger.exception("recovery is left to the next time, or to another runtime")
