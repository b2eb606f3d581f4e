"""Headers of pages that this service shows in browsers."""

from __future__ import annotations


def page_headers(policy: str) -> dict[str, str]:
    """policy: what the page may load and run, as a Content-Security-Policy; beyond it, nobody may
    frame the page, and it tells nobody where it was"""
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; {policy}base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
