"""Circuits: values of heads and blocks, and how scores go with effects over them."""

from tl_emergence.circuits.units import UnitValues, block_means, block_values

__all__ = ["UnitValues", "block_means", "block_values"]
