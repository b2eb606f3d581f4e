"""The browser console: pages over the API that this service has anyway, as docs/console.md tells.

The browser's part is in `static/`: modules that it runs as they are, without a build step.
"""
