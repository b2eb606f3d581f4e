"""Headers of pages that this service shows in browsers."""

from __future__ import annotations


def page_headers(*directives: str) -> dict[str, str]:
    """directives: of a Content-Security-Policy, of what the page may load and run; nobody may frame
    it, and it tells nobody where it was"""
    policy = (
        "default-src 'none'",
        *directives,
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
