"""One ablation experiment: the clean pass, then one pass a component, all metrics from each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tl_emergence.capture import compat
from tl_emergence.capture.checks import check_fits_model, not_finite
from tl_emergence.capture.edit_preflight import prove_blocks, prove_heads, prove_mlps
from tl_emergence.capture.edited import PROBE_ROWS, Edit, Shortcuts, Start, prove_shortcuts, run_edited
from tl_emergence.capture.forward import with_prefix
from tl_emergence.capture.preflight import preflight
from tl_emergence.capture.protected import no_grad
from tl_emergence.capture.spaces import Reading, Space, check_space, chosen_by_default
from tl_emergence.capture.states import capture_states
from tl_emergence.checkpoints import Workspace
from tl_emergence.circuits.components import Component, replaced
from tl_emergence.circuits.described import check_same_metrics, described_metric, note_macro
from tl_emergence.circuits.information import States, macro_bits, mean_micro_bits
from tl_emergence.circuits.metrics import Batch, InformationMetric, LogitMetric, Metric, check_values
from tl_emergence.circuits.references import AblationKind, Reference, gather_reference
from tl_emergence.estimators.interface import SATURATED_ABOVE
from tl_emergence.prompts.prompt_set import PromptSet

# Above this the streams that enter the blocks are not kept, and every pass runs from the tokens.
_STREAM_BYTES = 2 * 2**30


@dataclass(frozen=True, eq=False)
class _Clean:
    """What the clean pass leaves for the others."""

    streams: dict[int, Float[Tensor, "prompt input d_model"]]
    states: dict[tuple[int, int], Float[Tensor, "prompt d_model"]]
    scales: dict[int, float]
    logits: dict[int, Float[Tensor, "prompt vocabulary"]]
    values: dict[str, Float[Tensor, " prompt"]]


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything that an ablation is told, checked; `run` does it."""

    model: Any
    prompts: PromptSet
    metrics: tuple[Metric, ...]
    components: tuple[Component, ...]
    positions: tuple[int, ...]
    kind: AblationKind
    reference: PromptSet | None
    draws: int
    bos: int | None
    batch_size: int
    seed: int
    progress: bool

    def described(self, default_space: Space | None = None) -> dict[str, Any]:
        """Return what the numbers depend on: JSON values only; the default space where it is known by now."""
        return {
            **compat.describe(self.model),
            "prompts": self.prompts.name,
            "prompts_hash": self.prompts.content_hash,
            **self.prompts.described_copies(),
            "n_prompts": len(self.prompts),
            "reference_hash": None if self.reference is None else self.reference.content_hash,
            "kind": self.kind,
            "positions": list(self.positions),
            "components": [component.label for component in self.components],
            "metrics": {metric.name: described_metric(metric, default_space) for metric in self.metrics},
            "draws": self.draws if self.kind == "resample" else 1,
            "bos_token_id": self.bos,
            "seed": self.seed,
            "tl_emergence": compat.package_version("tl-emergence"),
        }

    @no_grad
    def run(
        self, workspace: Workspace
    ) -> tuple[Float[Tensor, "metric prompt"], list[Float[Tensor, "metric prompt"]], dict[str, Any]]:
        """Return the metrics of the clean model and of each ablation, and settings that were found out.

        Raises:
            SettingError: The work folder holds another metric of the same name.
        """
        for prompts in (self.prompts, *([] if self.reference is None else [self.reference])):
            check_fits_model(self.model, prompts, self.bos)
        device = compat.device(self.model)
        probe = with_prefix(self.prompts.tokens[:PROBE_ROWS], self.bos).to(device)
        report = preflight(self.model, probe)
        self._prove_edits(probe)
        reading = Reading(report.norms, report.reasons, report.folded)
        shortcuts = self._proven_shortcuts(probe)
        starts = self._starts()
        settings = {
            **self.described(reading.default_space),
            "skips_blocks": bool(starts) and shortcuts.starts.issuperset(starts),
        }
        if any(isinstance(m, InformationMetric) and m.space is None for m in self.metrics):
            chosen_by_default(reading)
        runner = _Runner(self, reading, shortcuts)
        done = [workspace.load_tensors(name) for name in ("clean", *(c.label for c in self.components))]
        known = all(isinstance(m, InformationMetric) or m.fingerprint for m in self.metrics)
        if known and all(part is not None for part in done):
            finished = [part for part in done if part is not None]
            note_macro(settings, self.metrics, finished[0]["macro"])
            return finished[0]["values"], [part["values"] for part in finished[1:]], settings
        clean = runner.clean()
        baseline = runner.baseline(clean)
        check_same_metrics(self.metrics, baseline, done[0])
        macro = runner.clean_macro()
        note_macro(settings, self.metrics, macro)
        workspace.save_tensors("clean", {"values": baseline, "macro": macro})
        offset = 0 if self.bos is None else 1
        reference = gather_reference(
            self.model,
            self.kind,
            self.components,
            [offset + t for t in self.positions],
            self.reference,
            n_prompts=len(self.prompts),
            bos=self.bos,
            device=device,
            batch_size=self.batch_size,
            draws=self.draws,
            seed=self.seed,
        )
        values = []
        bar = tqdm(self.components, desc=f"{self.kind} ablation", unit="part", disable=not self.progress)
        for component, found in zip(bar, done[1:], strict=True):
            if found is None:
                found = {"values": runner.ablated(component, reference, clean)}
                workspace.save_tensors(component.label, found)
            values.append(found["values"])
        return baseline, values, settings

    def logits_at(self) -> list[int]:
        """Return the content positions whose logits some metric sees."""
        return sorted({t for m in self.metrics if isinstance(m, LogitMetric) for t in m.positions or ()})

    def _starts(self) -> list[int]:
        """Return the blocks at which passes could start: those of the components, but for the first."""
        return sorted({component.layer for component in self.components} - {0})

    def _proven_shortcuts(self, probe: Tensor) -> Shortcuts:
        offset = 0 if self.bos is None else 1
        return prove_shortcuts(
            self.model, probe, starts=self._starts(), logits_at=[offset + t for t in self.logits_at()]
        )

    def _prove_edits(self, probe: Tensor) -> None:
        """Raise HookError unless what is replaced is what components add to the stream."""
        for kind, prove in (("head", prove_heads), ("mlp", prove_mlps), ("block", prove_blocks)):
            layers = sorted({component.layer for component in self.components if component.kind == kind})
            prove(self.model, probe, layers)


class _Runner:
    """The passes of an experiment."""

    def __init__(self, experiment: Experiment, reading: Reading, shortcuts: Shortcuts) -> None:
        self._of = experiment
        self._reading = reading
        self._shortcuts = shortcuts
        self._offset = 0 if experiment.bos is None else 1
        self._inputs = with_prefix(experiment.prompts.tokens, experiment.bos)
        self._device = compat.device(experiment.model)
        self._information = [m for m in experiment.metrics if isinstance(m, InformationMetric)]
        self._of_logits = [m for m in experiment.metrics if isinstance(m, LogitMetric)]
        self._logits_at = experiment.logits_at()
        self._states_at = sorted({t for m in self._information for t in m.positions or ()})
        self._states = sorted(
            {s for m in self._information for layer in m.layers or () for s in (layer, layer + 1)}
        )
        self._micro_found: dict[Any, Tensor] = {}
        self._macro_clean: dict[str, Float[Tensor, "layer pos prompt"]] = {}
        for metric in self._information:
            check_space(self._space(metric), reading, tuple(self._states))

    def clean(self) -> _Clean:
        """Run the clean model once; keep the streams from which ablations start, and what they compare to."""
        of = self._of
        starts = sorted(self._shortcuts.starts)
        width, n = compat.d_model(of.model), self._inputs.numel()
        if len(starts) * n * width * 4 > _STREAM_BYTES:
            starts = []
        streams: dict[int, list[Tensor]] = {s: [] for s in starts}
        energy = dict.fromkeys(self._states, 0.0)
        states: dict[tuple[int, int], list[Tensor]] = {
            (s, t): [] for s in self._states for t in self._states_at
        }

        def collect(state: int, stream: Float[Tensor, "batch pos d_model"]) -> None:
            if state in streams:
                streams[state].append(stream.cpu().clone())
            if state in energy:
                content = stream[:, self._offset :].float()
                energy[state] += float(content.square().mean(dim=-1).double().sum())
                for t in self._states_at:
                    states[state, t].append(stream[:, self._offset + t].clone())

        asked = {t for metric in self._of_logits if metric.needs_clean for t in metric.positions or ()}
        kept: dict[int, list[Tensor]] = {t: [] for t in sorted(asked)}
        held = sorted({*starts, *self._states})
        values: dict[str, list[Tensor]] = {metric.name: [] for metric in self._of_logits}
        for rows in self._batches():
            logits = self._pass(rows, [], held, collect)
            for metric in self._of_logits:
                assert logits is not None
                clean = {t: logits[:, self._logits_at.index(t)] for t in kept}
                values[metric.name].append(self._value(metric, logits, rows, clean))
            for t, parts in kept.items():
                assert logits is not None
                parts.append(logits[:, self._logits_at.index(t)].cpu().clone())
        content = of.prompts.tokens.numel()
        return _Clean(
            streams={s: torch.cat(parts) for s, parts in streams.items()},
            states={key: self._checked(key, torch.cat(parts)) for key, parts in states.items()},
            scales={s: (total / content) ** 0.5 for s, total in energy.items()},
            logits={t: torch.cat(parts) for t, parts in kept.items()},
            values={name: torch.cat(parts) for name, parts in values.items()},
        )

    def baseline(self, clean: _Clean) -> Float[Tensor, "metric prompt"]:
        """Return the metrics of the clean model; micro, from the tokens alone, is in emergence only."""
        values = dict(clean.values)
        for metric in self._information:
            found = self._macro(metric, metric.layers or (), clean.states, clean)
            self._macro_clean[metric.name] = found
            values[metric.name] = found.mean(dim=(0, 1))
            if metric.emergence:
                values[metric.name] = values[metric.name] - self._micro(metric, clean)
        return self._stacked(values)

    def clean_macro(self) -> Float[Tensor, "metric 2"]:
        """Return clean macro, and the share of its cells above 0.9 of the cap log2 N; zeros for logits."""
        found = torch.zeros(len(self._of.metrics), 2, dtype=torch.float64)
        cap = torch.tensor(float(len(self._of.prompts))).log2()
        for row, metric in zip(found, self._of.metrics, strict=True):
            if isinstance(metric, InformationMetric):
                cells = self._macro_clean[metric.name].mean(dim=-1)
                row[0], row[1] = cells.mean(), (cells > SATURATED_ABOVE * cap).double().mean()
        return found

    def ablated(
        self, component: Component, reference: Reference, clean: _Clean
    ) -> Float[Tensor, "metric prompt"]:
        """Return the metrics with one component replaced, the mean over draws."""
        total = torch.zeros(len(self._of.metrics), len(self._of.prompts), dtype=torch.float64)
        for draw in range(reference.draws):
            values, states = self._edited(component, reference, draw, clean)
            for metric in self._information:
                values[metric.name] = self._changed(metric, component, {**clean.states, **states}, clean)
                if metric.emergence:
                    values[metric.name] = values[metric.name] - self._micro(metric, clean)
            total += self._stacked(values)
        return total / reference.draws

    def _edited(
        self, component: Component, reference: Reference, draw: int, clean: _Clean
    ) -> tuple[dict[str, Float[Tensor, " prompt"]], States]:
        """Run all batches with one component replaced; return metrics of logits, and the states above it."""
        held = [s for s in self._states if s > component.layer]
        values: dict[str, list[Tensor]] = {metric.name: [] for metric in self._of_logits}
        parts: dict[tuple[int, int], list[Tensor]] = {(s, t): [] for s in held for t in self._states_at}
        places = [self._offset + t for t in self._of.positions]

        def collect(state: int, stream: Float[Tensor, "batch pos d_model"]) -> None:
            for t in self._states_at:
                parts[state, t].append(stream[:, self._offset + t].clone())

        for rows in self._batches() if self._logits_at or held else []:
            value = reference.value(component, draw, rows).to(self._device)
            edits = replaced(component, self._of.model, places, value)
            start = None
            if component.layer in clean.streams:
                start = Start(component.layer, clean.streams[component.layer][rows].to(self._device))
            logits = self._pass(rows, edits, held, collect, start)
            for metric in self._of_logits:
                assert logits is not None
                beside = {t: of[rows] for t, of in clean.logits.items()}
                values[metric.name].append(self._value(metric, logits, rows, beside))
        states = {key: self._checked(key, torch.cat(part)) for key, part in parts.items()}
        return {name: torch.cat(part) for name, part in values.items()}, states

    def _pass(
        self,
        rows: slice,
        edits: list[Edit],
        held: list[int],
        collect: Callable[[int, Tensor], None],
        start: Start | None = None,
    ) -> Tensor | None:
        return run_edited(
            self._of.model,
            self._inputs[rows].to(self._device),
            edits=edits,
            states=held,
            on_state=collect,
            logits_at=[self._offset + t for t in self._logits_at],
            start=start,
            shortcuts=self._shortcuts,
        )

    def _value(
        self, metric: LogitMetric, logits: Tensor, rows: slice, clean: dict[int, Tensor]
    ) -> Float[Tensor, " batch"]:
        wanted = metric.positions or ()
        columns = [self._logits_at.index(t) for t in wanted]
        batch = Batch(
            logits=logits[:, columns],
            clean=torch.stack([clean[t].to(logits) for t in wanted], dim=1) if metric.needs_clean else None,
            tokens=self._of.prompts.tokens[rows].clone(),
            positions=tuple(wanted),
            rows=rows,
        )
        return check_values(metric, metric.of(batch), len(logits))

    def _changed(
        self, metric: InformationMetric, component: Component, states: States, clean: _Clean
    ) -> Float[Tensor, " prompt"]:
        """Return the mean over blocks and positions; blocks below the component are as they were."""
        layers = metric.layers or ()
        above = [layer for layer in layers if layer >= component.layer]
        found = self._macro_clean[metric.name].clone()
        if above:
            found[[layers.index(layer) for layer in above]] = self._macro(metric, above, states, clean)
        return found.mean(dim=(0, 1))

    def _macro(
        self, metric: InformationMetric, layers: Sequence[int], states: States, clean: _Clean
    ) -> Float[Tensor, "layer pos prompt"]:
        return macro_bits(
            states,
            layers,
            metric.positions or (),
            reading=self._reading,
            space=self._space(metric),
            scales=clean.scales,
            sigma=metric.sigma,
            seed=self._of.seed,
            device=compat.estimation_device(self._of.model),
        )

    def _micro(self, metric: InformationMetric, clean: _Clean) -> Float[Tensor, " prompt"]:
        key = (metric.layers, metric.positions, metric.space, metric.sigma)
        if key not in self._micro_found:
            of = self._of
            alone = capture_states(
                of.model,
                of.prompts,
                layers=metric.layers,
                positions=metric.positions,
                prepend_bos=of.bos is not None,
                bos_token_id=of.bos,
                batch_size=of.batch_size,
            )
            found = mean_micro_bits(
                alone,
                metric.layers or (),
                metric.positions or (),
                space=self._space(metric),
                scales=clean.scales,
                sigma=metric.sigma,
                seed=of.seed,
                device=compat.estimation_device(of.model),
            )
            self._micro_found[key] = found.mean(dim=(0, 1))
        return self._micro_found[key]

    def _space(self, metric: InformationMetric) -> Space:
        return metric.space or self._reading.default_space

    def _checked(self, key: tuple[int, int], states: Tensor) -> Tensor:
        if not bool(torch.isfinite(states).all()):
            raise not_finite(f"h_{key[0]}, at position {key[1]}")
        return states.to(torch.promote_types(states.dtype, torch.float32))

    def _batches(self) -> list[slice]:
        n, size = len(self._inputs), self._of.batch_size
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _stacked(self, values: dict[str, Tensor]) -> Float[Tensor, "metric prompt"]:
        return torch.stack([values[metric.name] for metric in self._of.metrics])
