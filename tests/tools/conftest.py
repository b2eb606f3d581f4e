"""Hypothesis tries the same examples in every run, and must not fail a test because the machine was
busy; pytest's own timeout stands."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "busy machine",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("busy machine")
