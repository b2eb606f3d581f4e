"""`torpor keys`: make, list and revoke API keys."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Awaitable, Callable

from agent_runtime.commands.store_options import add_store_options, in_store
from agent_runtime.errors import BadRequest
from state_store.api_keys import OPERATORS, KeyLimits
from state_store.store import StateStore

_DAY = 86400.0


def add_to(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="keys_command", required=True)

    create = actions.add_parser("create", help="print a new key; it is shown this once")
    create.add_argument("--role", choices=("use", "read", "admin", "operator"), default="use")
    create.add_argument("--name", default="", help="what you call it")
    create.add_argument("--days", type=float, default=None, help="until it expires")
    create.add_argument("--per-minute", type=int, default=None, metavar="REQUESTS")
    create.set_defaults(run=lambda arguments: _run(arguments, _create))

    listed = actions.add_parser("list", help="a line of JSON per key, without secrets")
    listed.set_defaults(run=lambda arguments: _run(arguments, _list))

    revoke = actions.add_parser("revoke", help="running services notice within 5 seconds")
    revoke.add_argument("id")
    revoke.set_defaults(run=lambda arguments: _run(arguments, _revoke))

    for action in (create, listed, revoke):
        action.add_argument("--tenant", default=None, help="default: `default`")
        add_store_options(action)
    for action in (listed, revoke):
        action.add_argument(
            "--operators", action="store_true", help="keys of role operator, which are no tenant's"
        )


def _run(
    arguments: argparse.Namespace,
    action: Callable[[StateStore, argparse.Namespace], Awaitable[None]],
) -> int:
    in_store(arguments, lambda store: action(store, arguments))
    return 0


async def _create(store: StateStore, arguments: argparse.Namespace) -> None:
    whose = _whose(arguments, operators=arguments.role == "operator")
    limits = KeyLimits(
        arguments.role,
        None if arguments.days is None else arguments.days * _DAY,
        arguments.per_minute,
    )
    limits.require_for(whose)  # before a tenant is made for it
    if whose != OPERATORS:
        await store.tenant(whose)  # not one that was deleted
    _, text = await store.keys.create(
        whose,
        role=limits.role,
        name=arguments.name,
        expires_in=limits.expires_in,
        per_minute=limits.per_minute,
    )
    print(text)


async def _list(store: StateStore, arguments: argparse.Namespace) -> None:
    for key in await store.keys.of(_whose(arguments, operators=arguments.operators)):
        print(json.dumps(dataclasses.asdict(key)))


async def _revoke(store: StateStore, arguments: argparse.Namespace) -> None:
    await store.keys.revoke(_whose(arguments, operators=arguments.operators), arguments.id)


def _whose(arguments: argparse.Namespace, *, operators: bool) -> str:
    """A tenant, or OPERATORS. Raises BadRequest."""
    tenant: str | None = arguments.tenant
    if not operators:
        return "default" if tenant is None else tenant
    if tenant is not None:
        raise BadRequest(
            f"keys of operators are no tenant's; nothing was done. Leave out --tenant {tenant}."
        )
    return OPERATORS
