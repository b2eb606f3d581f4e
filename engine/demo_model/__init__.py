"""The demo model: a small Nemotron-H-format model that this repository trains from nothing.

`python -m engine.demo_model train --out models/demo` makes the checkpoint and
`python -m engine.demo_model evaluate models/demo` prints its scores.
"""
