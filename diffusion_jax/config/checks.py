"""How a configuration refuses a value."""

from diffusion_jax.errors import UserError


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise UserError naming the field, what was given and what is allowed."""
    if not condition:
        raise UserError(f"{name} = {value!r} is not allowed; give {allowed}")
