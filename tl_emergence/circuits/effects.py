"""The result of ablations: effects by layer, head and prompt, with the clean baseline."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, get_args

from jaxtyping import Float
from torch import Tensor

from tl_emergence import loaded
from tl_emergence.checks import integer, is_key
from tl_emergence.circuits.components import Component, Kind
from tl_emergence.circuits.units import UnitValues, ids_of_copies
from tl_emergence.errors import unknown_name
from tl_emergence.files import as_path, exists
from tl_emergence.folders import read_folder, write_folder
from tl_emergence.tables import bos_words
from tl_emergence.torch_state import with_torch_defaults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_HEAD = {"format": "tl_emergence head effects", "version": 1}
_NORMAL_95 = 1.959964
_PLAIN = ("component", "layers", "heads", "units", "worse", "settings")


@dataclass(frozen=True, eq=False)
class HeadEffects:
    """What changed when each head (or MLP, or block: one column) put out something else.

    Attributes:
        component: "head", "mlp" or "block".
        layers: The blocks, one a row.
        heads: The heads, one a column.
        effects: By metric, ablated minus clean, prompt by prompt; NaN for heads that were not asked for.
        baseline: By metric, the clean model.
        units: By metric, what it is measured in.
        worse: By metric, whether a rise (1) or a fall (-1) means that the model does worse; 0 unknown.
        settings: Everything else needed to repeat it: JSON values only.

    Intervals are over prompts, of these heads on prompts like these; the estimator of information is held
    fixed (pointwise values, the noise draws of the clean run). An effect is one of this kind of ablation.
    """

    component: Kind
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    effects: Mapping[str, Float[Tensor, "layer head prompt"]]
    baseline: Mapping[str, Float[Tensor, " prompt"]]
    units: Mapping[str, str]
    worse: Mapping[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(self.effects)

    @property
    def n_prompts(self) -> int:
        """Number of prompts."""
        return len(next(iter(self.baseline.values())))

    @property
    def kind(self) -> str:
        """The kind of ablation."""
        return str(self.settings.get("kind", "unknown"))

    def label(self, layer: int, head: int) -> str:
        """Return `L9H3`, `L9MLP` or `L9`."""
        return Component(self.component, layer, head).label

    def mean(self, metric: str) -> Float[Tensor, "layer head"]:
        """Return the mean effect over prompts."""
        return self._of(metric).mean(dim=-1)

    def stderr(self, metric: str) -> Float[Tensor, "layer head"]:
        """Return the standard error of the mean effect over prompts."""
        return self._of(metric).std(dim=-1) / self.n_prompts**0.5

    def values(self, metric: str) -> UnitValues:
        """Return the effects of the heads that were ablated, prompt by prompt, for `correlate`.

        Raises:
            SettingError: A metric that was not measured.

        Example:
            >>> from tl_emergence import ablate_heads
            >>> effects = ablate_heads(model, from_tokens(tokens), ["loss", "emergence"], kind="zero")
            >>> effects.values("loss")
            UnitValues(loss: 4 units x 8 prompts, bits, ablated - clean)
        """
        found = self._of(metric)
        asked = (~found.isnan().all(dim=-1)).nonzero().tolist()
        return UnitValues(
            name=metric,
            values=found[[i for i, _ in asked], [j for _, j in asked]],
            labels=tuple(self.label(self.layers[i], self.heads[j]) for i, j in asked),
            layers=tuple(self.layers[i] for i, _ in asked),
            unit=f"{self.units[metric]}, ablated - clean".removeprefix(", "),
            prompts=str(self.settings.get("prompts_hash", "")),
            change=True,
            prompt_ids=ids_of_copies(self.settings),
        )

    def saturated(self, metric: str) -> float:
        """Return the share of a metric's blocks and positions whose clean macro is above 0.9 of its cap.

        There the number of prompts is measured, and an ablation is hardly seen. 0 for metrics of logits; NaN
        for effects saved before this was kept.

        Raises:
            SettingError: A metric that was not measured.
        """
        self._of(metric)
        about = self.settings.get("metrics", {}).get(metric, {})
        return float(about.get("saturated", math.nan)) if "sigma" in about else 0.0

    def ranked(self, metric: str, n: int | None = None) -> pd.DataFrame:
        """Return heads in order of how much worse the model does, with intervals of 95 % over prompts.

        Largest effect first for a metric that says nothing about worse. Columns: rank, head, layer, effect,
        stderr, low, high, baseline.

        Example:
            >>> from tl_emergence import ablate_heads
            >>> effects = ablate_heads(model, from_tokens(tokens), "loss", kind="zero")
            >>> effects.ranked("loss", 3)["rank"].tolist()
            [1, 2, 3]
        """
        import pandas as pd

        n = None if n is None else integer("n", n, least=1)
        mean, stderr, sign = self.mean(metric), self.stderr(metric), self.worse.get(metric, 0)
        baseline = float(self.baseline[metric].mean())
        rows = [
            (self.label(layer, head), layer, float(mean[i, j]), float(stderr[i, j]))
            for i, layer in enumerate(self.layers)
            for j, head in enumerate(self.heads)
            if not bool(mean[i, j].isnan())
        ]
        rows.sort(key=lambda row: -sign * row[2] if sign else -abs(row[2]))
        table = pd.DataFrame(rows[:n], columns=["head", "layer", "effect", "stderr"])
        table.insert(0, "rank", range(1, len(table) + 1))
        table["low"] = table["effect"] - _NORMAL_95 * table["stderr"]
        table["high"] = table["effect"] + _NORMAL_95 * table["stderr"]
        table["baseline"] = baseline
        return table

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row for each metric, layer and head.

        Columns: model, model_note, prompts, prompts_hash, n_prompts, shots (0 where the prompts are no
        demonstrations), bos, seed, kind, reference_hash, draws, ablated_positions, component, layer, head,
        label, value (the mean effect), stderr, metric, metric_settings (JSON), baseline, unit, saturated (the
        share of the metric's cells; see `saturated`). No word is empty, so that a CSV file keeps them all.
        """
        import pandas as pd

        from tl_emergence.tables import NONE, described_run

        run = described_run(self.settings, self.n_prompts)
        run |= {
            "kind": self.kind,
            "reference_hash": str(self.settings.get("reference_hash") or NONE),
            "draws": self.settings.get("draws", 1),
            "ablated_positions": ",".join(map(str, self.settings.get("positions", ()))) or "all",
            "component": self.component,
        }
        rows = []
        for metric in self.metrics:
            mean, stderr = self.mean(metric), self.stderr(metric)
            about = dict(self.settings.get("metrics", {}).get(metric, {}))
            about.pop("saturated", None)
            of_metric = (
                metric,
                json.dumps(about, sort_keys=True),
                float(self.baseline[metric].mean()),
                self.units[metric] or NONE,
                self.saturated(metric),
            )
            for i, layer in enumerate(self.layers):
                for j, head in enumerate(self.heads):
                    if not bool(mean[i, j].isnan()):
                        value = (layer, head, self.label(layer, head), float(mean[i, j]), float(stderr[i, j]))
                        rows.append((*run.values(), *value, *of_metric))
        names = [*run, "layer", "head", "label", "value", "stderr", "metric", "metric_settings"]
        return pd.DataFrame(rows, columns=[*names, "baseline", "unit", "saturated"])

    def plot(self, metric: str | None = None) -> Figure:
        """Draw the effects as a heatmap of layers and heads, diverging, centred at 0; all metrics or one."""
        from tl_emergence import plots

        return plots.head_effects(self, metric)

    def summary(self, n: int = 5) -> str:
        """Return baseline and the leading heads of each metric, in words."""
        what = {"head": "heads", "mlp": "MLPs", "block": "blocks"}[self.component]
        lines = [
            f"{self.kind} ablation of {what} one at a time, {self.settings.get('model', 'model')}, "
            f"{self.n_prompts} prompts, {bos_words(self.settings)}; "
            f"effects are ablated minus clean, +- one standard error over prompts."
        ]
        for metric in self.metrics:
            unit = self.units[metric]
            clean = f"{metric}: clean {float(self.baseline[metric].mean()):.3f} {unit}".rstrip()
            lines.append(clean + self._where(metric))
            lines += [
                f"  {row['rank']}. {row['head']:7} {row['effect']:+.3f} +- {row['stderr']:.3f}"
                for row in self.ranked(metric, n).to_dict("records")
            ]
        lines.append("One at a time underestimates parts that back each other up.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        count = int((~self.mean(self.metrics[0]).isnan()).sum())
        what = f"{self.kind} ablation of {count} {self.component}s, {self.n_prompts:,} prompts"
        return f"HeadEffects({what}: {', '.join(self.metrics)})"

    def save(self, folder: str | PathLike[str]) -> None:
        """Write safetensors and JSON to a folder.

        Raises:
            ResultFileError: The folder cannot be written. What it held before stays whole.
        """
        tensors = {f"effects/{name}": value for name, value in self.effects.items()}
        tensors |= {f"baseline/{name}": value for name, value in self.baseline.items()}
        plain = {name: getattr(self, name) for name in _PLAIN}
        write_folder(as_path("folder", folder), "effects", _HEAD, plain, tensors)

    def _where(self, metric: str) -> str:
        """Return where and how information was read, with the cap of macro: near it nothing can fall."""
        about = self.settings.get("metrics", {}).get(metric, {})
        if "sigma" not in about:
            return ""
        layers, positions = (",".join(map(str, about[name])) for name in ("layers", "positions"))
        text = (
            f" (blocks {layers}; positions {positions}; space {about['space']}, sigma {about['sigma']:g}; "
            f"macro cannot exceed {math.log2(self.n_prompts):.2f}: near it nothing is seen to fall)"
        )
        share = self.saturated(metric)
        if math.isnan(share):
            return f"{text}; which cells are saturated was not kept"
        return text if not share else f"{text}; SATURATED in {share:.0%} of its cells"

    def _of(self, metric: str) -> Float[Tensor, "layer head prompt"]:
        if not is_key(metric, self.effects):
            raise unknown_name("metric", metric, list(self.effects))
        return self.effects[metric]


@with_torch_defaults
def load_effects(folder: str | PathLike[str]) -> HeadEffects:
    """Read what `save` or `tl-emergence ablate` wrote. Needs neither the model nor TransformerLens.

    Raises:
        ResultFileError: No effects there, of another version, or damaged or cut off.
    """

    def restore(plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HeadEffects:
        of = {name: loaded.mapping(name, plain[name]) for name in ("units", "worse", "settings")}
        layers, heads = (loaded.whole_numbers(name, plain[name]) for name in ("layers", "heads"))
        if (
            plain["component"] not in get_args(Kind)
            or not of["units"]
            or set(of["units"]) != set(of["worse"])
        ):
            raise ValueError("component, units or worse are not those of effects")
        for name in of["units"]:
            loaded.text("units", of["units"][name])
            loaded.whole_number("worse", of["worse"][name], least=-1)
        n_prompts = max(tensors[f"baseline/{name}"].numel() for name in of["units"])
        shape = (len(layers), len(heads), n_prompts)
        return HeadEffects(
            component=plain["component"],
            layers=layers,
            heads=heads,
            effects={name: loaded.tensor(tensors, f"effects/{name}", shape) for name in of["units"]},
            baseline={name: loaded.tensor(tensors, f"baseline/{name}", shape[2:]) for name in of["units"]},
            **of,
        )

    found = as_path("folder", folder)
    if exists(found / "effects" / "effects.json"):
        found = found / "effects"  # the output folder of `tl-emergence ablate`
    return read_folder(found, "effects", _HEAD, restore)
