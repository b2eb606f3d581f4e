"""Names of settings in the environment."""

PREFIX = "TORPOR_"


def variable(name: str) -> str:
    """In which a setting stands."""
    return PREFIX + name.replace(".", "__").upper()
