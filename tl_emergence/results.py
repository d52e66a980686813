"""Results: frozen arrays with everything needed to judge and repeat them. They keep no model and no cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_emergence.ceiling import Ceiling
from tl_emergence.checks import integer, is_key
from tl_emergence.errors import SettingError, unknown_key
from tl_emergence.estimators.interface import SATURATED_ABOVE
from tl_emergence.geometry import Geometry

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_Key = TypeVar("_Key")
_Result = TypeVar("_Result", covariant=True)


@dataclass(frozen=True, eq=False)
class Subsample:
    """The same scores on a random subset of the prompts, drawn without replacement.

    A score that still rises with N has not converged; one that follows log2 N measures the cap.
    """

    n_prompts: int
    macro: Float[Tensor, "layer pos"]
    emergence: Float[Tensor, "layer pos"]


@dataclass(frozen=True, eq=False)
class EmergenceResult:
    """Information emergence of every scored block and position, in bits.

    Attributes:
        macro: I(h_l^t ; h_{l+1}^t) over prompts, whole prompts run.
        micro: The same for the token s_t run alone.
        emergence: macro[l,t] - mean(micro[l,0..t]).
        macro_stderr: Standard error of `macro`.
        micro_stderr: Standard error of `micro`.
        stderr: Standard error of `emergence`; draws shared by macro and micro accounted for.
        macro_saturated: Where `macro` is above 0.9 of the cap.
        micro_saturated: Where `micro` is above 0.9 of the cap.
        exact: The ceiling: exact Shannon values on the same prompts.
        layers: Block numbers, one a row.
        positions: Content positions, one a column.
        labels: Labels of the positions.
        n_prompts: Number of prompts.
        cap_bits: log2 of the prompts where the estimator cannot exceed it, else None.
        closest: Smallest distance between states of distinct prefixes, for h_l (first) and h_{l+1} of
            each block, in the measured space; 0 is a collision, infinity means a single prefix, NaN not
            looked for.
        subsamples: The scores at N/2 and N/4, where the estimator gives them.
        macro_pointwise: Contribution of each prompt to `macro`, where the estimator gives it.
        micro_pointwise: The same for `micro`.
        controls: Results of the controls, by name.
        geometry: Dimension, norm, cosine, prompt entropy and emergence criteria, where they were asked for.
        settings: Everything else needed to repeat the run: JSON values only.
    """

    macro: Float[Tensor, "layer pos"]
    micro: Float[Tensor, "layer pos"]
    emergence: Float[Tensor, "layer pos"]
    macro_stderr: Float[Tensor, "layer pos"]
    micro_stderr: Float[Tensor, "layer pos"]
    stderr: Float[Tensor, "layer pos"]
    macro_saturated: Bool[Tensor, "layer pos"]
    micro_saturated: Bool[Tensor, "layer pos"]
    exact: Ceiling
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    labels: tuple[str, ...]
    n_prompts: int
    cap_bits: float | None
    closest: Float[Tensor, "end layer pos"]
    subsamples: tuple[Subsample, ...] = ()
    macro_pointwise: Float[Tensor, "layer pos prompt"] | None = None
    micro_pointwise: Float[Tensor, "layer pos prompt"] | None = None
    controls: Mapping[str, EmergenceResult] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    geometry: Geometry | None = None

    @property
    def estimator(self) -> str:
        """Name of the estimator."""
        return str(self.settings.get("estimator", "unknown"))

    @property
    def sigma(self) -> float:
        """Noise level, in units of the space."""
        return float(self.settings.get("sigma", 0.0))

    @property
    def space(self) -> str:
        """Coordinates in which the states were seen."""
        return str(self.settings.get("space", "unknown"))

    @property
    def collisions(self) -> int:
        """Cells (h_l, position) at l >= 1 in which two distinct prefixes have the same state."""
        starts_beyond = self.settings.get("part") == "mlp"  # a half-block that reads the middle
        beyond_embedding = torch.tensor(
            [[layer > 0 or starts_beyond for layer in self.layers], [True] * len(self.layers)], device="cpu"
        )
        return int(((self.closest == 0) & beyond_embedding[:, :, None]).sum())

    @property
    def at_ceiling(self) -> Bool[Tensor, "layer pos"]:
        """Where `macro` is above 0.9 of its exact value: nothing is left to tell about the model there."""
        return (self.exact.macro > 0) & (self.macro > SATURATED_ABOVE * self.exact.macro)

    def at(self, layer: int, pos: int) -> tuple[float, float]:
        """Return (emergence, standard error) of one block and content position.

        Raises:
            SettingError: That cell was not measured.
        """
        layer, pos = integer("layer", layer), integer("pos", pos)
        if layer not in self.layers or pos not in self.positions:
            raise SettingError(
                "cell not measured",
                seen=f"layer {layer}, position {pos}",
                expected=f"a layer of {list(self.layers)} and a position of {list(self.positions)}",
                fix="Measure again with layers= and positions= that include it.",
            )
        row, column = self.layers.index(layer), self.positions.index(pos)
        return float(self.emergence[row, column]), float(self.stderr[row, column])

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row for each run, layer, position and metric (macro, micro, emergence).

        Columns: model, model_note, prompts, prompts_hash, n_prompts, shots (0 where the prompts are no
        demonstrations), bos, seed, micro, estimator, options (of the estimator), space, sigma, control
        ("model" for the model itself), layer, pos, label, metric, value, stderr, exact, cap_bits, saturated
        (of macro or micro; either for emergence). No word is empty, so that a CSV file keeps them all. All
        columns before `label`, and `metric`, together name a row, also among the rows of different calls.
        With `geometry=True` also the quantities of `Geometry` by their names, the same in all three rows of
        a layer and position, whatever the sigma.
        """
        from tl_emergence.tables import result_rows

        return result_rows(self)

    def summary(self) -> str:
        """Return the result in words and one table, with what limits it."""
        from tl_emergence.tables import summary

        return summary(self)

    def plot(self, **options: Any) -> Figure:
        """Return the overview figure; see `tl_emergence.plots.overview`. Shows nothing by itself."""
        from tl_emergence import plots

        return plots.overview(self, **options)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the result to a folder: JSON and safetensors, no pickle; see `load_result`."""
        from tl_emergence.saving import save_result

        save_result(self, folder)

    def __repr__(self) -> str:
        return (
            f"EmergenceResult({self.settings.get('model', 'states')}, {self.n_prompts:,} prompts, "
            f"{self.estimator}, space {self.space}, sigma {self.sigma:g}, "
            f"{len(self.layers)} layers x {len(self.positions)} positions)"
        )

    def _repr_html_(self) -> str:
        from tl_emergence.tables import html

        return html(self)


class _Results(Mapping[_Key, _Result]):
    """Results by what tells them apart, from the same states."""

    results: Mapping[_Key, _Result]
    _KIND = "key"

    def __getitem__(self, key: _Key) -> _Result:
        if not is_key(key, self.results):
            raise unknown_key(self._KIND, key, self.results)
        return self.results[key]

    def __iter__(self) -> Iterator[_Key]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def _parts(self) -> Mapping[_Key, AnyResult]:
        return cast("Mapping[_Key, AnyResult]", self.results)

    def _title(self, key: _Key) -> str:
        return f"{self._KIND} {key!r}"

    def to_dataframe(self) -> pd.DataFrame:
        """Return the rows of every result, told apart by the columns `estimator`, `space` and `sigma`."""
        from tl_emergence.tables import joined_rows

        return joined_rows([found.to_dataframe() for found in self._parts().values()])

    def summary(self) -> str:
        """Return the summary of every result, each under its title."""
        from tl_emergence.tables import joined_summary

        return joined_summary({self._title(key): found.summary() for key, found in self._parts().items()})

    def _repr_html_(self) -> str:
        from tl_emergence.tables import joined_html

        return joined_html({self._title(key): found._repr_html_() for key, found in self._parts().items()})

    def save(self, folder: str | PathLike[str]) -> None:
        """Write all results to a folder; see `load_result`."""
        from tl_emergence.saving import save_result

        save_result(cast("AnyResult", self), folder)


@dataclass(frozen=True, eq=False)
class SigmaSweep(_Results[float, EmergenceResult]):
    """One result for each noise level, from the same states and the same draws, scaled."""

    results: Mapping[float, EmergenceResult]
    _KIND = "sigma"

    def _title(self, key: float) -> str:
        return f"sigma {key:g}"

    def plot(self, **options: Any) -> Figure:
        """Return information against sigma; see `tl_emergence.plots.sigma_curves`."""
        from tl_emergence import plots

        return plots.sigma_curves(self, **options)

    def __repr__(self) -> str:
        return f"SigmaSweep({', '.join(f'{sigma:g}' for sigma in self)}: {next(iter(self.values()))!r})"


@dataclass(frozen=True, eq=False)
class SpaceComparison(_Results[str, EmergenceResult | SigmaSweep]):
    """One result or sweep for each space, from the same states: `read` and `unit` side by side."""

    results: Mapping[str, EmergenceResult | SigmaSweep]
    _KIND = "space"

    def plot(self, **options: Any) -> Figure:
        """Return heatmaps side by side; see `tl_emergence.plots.side_by_side`."""
        from tl_emergence import plots

        return plots.side_by_side(self, **options)

    def __repr__(self) -> str:
        return f"SpaceComparison({', '.join(self)})"


@dataclass(frozen=True, eq=False)
class EstimatorComparison(_Results[str, EmergenceResult | SigmaSweep | SpaceComparison]):
    """What each estimator says about the same states of the same prompts, and of the same controls.

    Each answers a question of its own: read them beside each other, subtract none from another. What a name
    gives is what a call for that estimator alone would return: `found["noise"]`, `found["noise"]["read"]`,
    `found["noise"]["read"][0.5]`.

    Example:
        >>> found = information_emergence(model, tokens, estimator=("exact", "noise"), space="unit")
        >>> found
        EstimatorComparison(exact, noise)
        >>> found["exact"].macro[1].tolist()
        [2.0, 2.0, 3.0]
    """

    results: Mapping[str, EmergenceResult | SigmaSweep | SpaceComparison]
    _KIND = "estimator"

    def plot(self, **options: Any) -> Figure:
        """Return curves side by side, a panel an estimator; see `tl_emergence.plots.estimator_curves`."""
        from tl_emergence import plots

        return plots.estimator_curves(self, **options)

    def summary(self) -> str:
        """Return one table of all estimators beside each other, then the summary of each."""
        from tl_emergence.tables import joined_summary

        beside = {"estimators side by side": self.side_by_side()}
        each = {self._title(key): found.summary() for key, found in self.items()}
        return joined_summary({**beside, **each})

    def side_by_side(self) -> str:
        """Return emergence at the last scored position by every estimator, one row a block, as text."""
        from tl_emergence.tables import beside_each_other

        return beside_each_other(self)

    def __repr__(self) -> str:
        return f"EstimatorComparison({', '.join(self)})"


AnyResult = EmergenceResult | SigmaSweep | SpaceComparison | EstimatorComparison
