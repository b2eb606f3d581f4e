"""More sessions than slots: who runs, who stays on the device, who leaves it, who is fetched early.

    submit ──► FairQueue ──► Scheduler.step ──► Start      a slot is free and the session fits
               (tenants)          │             Suspend    somebody idle had to leave for it
               full: 429          └───────────► Prefetch   its tool's result is about to come

`scheduler.py`, `queues.py`, `tool_times.py` and the policies (`agent_runtime/policies.py`) know no
clock, no engine and no store: time is an argument, decisions are values. The runtime
(`admission.py`) and the simulator (`simulate.py`) run this same code.
"""
