"""`torpor profiles`: the launch profiles there are, and what one becomes."""

from __future__ import annotations

import argparse
import shlex

from engine.profiles import PROFILES, profile_named, variants_of


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", nargs="?", help="NAME or NAME/VARIANT")
    parser.add_argument("--context", type=int, help="tokens, up to the longest of the model")
    parser.add_argument("--no-mtp", action="store_true", help="decode without speculation")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.profile is None:
        for name in PROFILES:
            for variant in variants_of(name).values():
                print(f"{variant.full_name:<40} {variant.summary}")
        return 0
    profile = profile_named(arguments.profile)
    if arguments.context is not None:
        profile = profile.at_context(arguments.context)
    if profile.checkpoint is not None:
        print(f"# {profile.checkpoint}")
    settings = [f"{name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    model = str(profile.model or "DIR")
    words = ["--model-path", model, *profile.command_line(mtp=not arguments.no_mtp)]
    print(" ".join([*settings, "sglang serve", shlex.join(words)]))
    return 0
