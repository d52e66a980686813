# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Emergence over training: what moves when induction heads form?

# %%
import itertools
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

import tl_emergence as tle
from tl_emergence import circuits

places = (Path.cwd(), *Path.cwd().parents, Path(tle.__file__).parents[1])
sys.path.append(str(next(p for p in places if (p / "tutorials" / "induction").is_dir())))

from tutorials.induction.load import kept_steps, load_induction_model, training_log
from tutorials.induction.sequences import BOS

pd.DataFrame(training_log()).set_index("step")

# %%
PERIOD, TOKENS = 5, range(1, 8)
once = torch.tensor(list(itertools.permutations(TOKENS, PERIOD)))
order = torch.randperm(len(once), generator=torch.Generator().manual_seed(0))
prompts = tle.prompts.from_tokens(once[order].repeat(1, 2), name="r r, 5 of 7 tokens")
FIRST, SECOND = [1, 2, 3, 4], [5, 6, 7, 8]
print(prompts, prompts.tokens[0].tolist())
ceiling = tle.exact_emergence(prompts, layers=[1], positions=list(range(9)))
print("exact macro:", [round(float(x), 2) for x in ceiling.macro[0]])

# %%
rows, results = [], {}
for step in kept_steps():
    model = load_induction_model(step)
    last = step == kept_steps()[-1]
    results[step] = tle.information_emergence(
        model,
        prompts,
        layers=[1],
        positions=[0, *FIRST, *SECOND],
        space=("read", "unit"),
        bos_token_id=BOS,
        controls=("shuffled_weights",) if last else (),
    )
    inputs = circuits.model_tokens(model, prompts, bos_token_id=BOS)
    with torch.no_grad():
        bits = -model(inputs, return_type="logits").log_softmax(dim=-1) / torch.tensor(2.0).log()
    bits = bits[:, 1:-1].gather(-1, inputs[:, 2:, None])[..., 0].mean(dim=0)
    row = {
        "step": step,
        "loss, first half": float(bits[FIRST[:-1]].mean()),
        "loss, repeat": float(bits[SECOND].mean()),
        "previous token": float(circuits.previous_token_scores(model, prompts, bos_token_id=BOS)[0].max()),
        "induction": float(
            circuits.induction_scores(model, prompts, period=PERIOD, bos_token_id=BOS)[1].max()
        ),
    }
    for space in ("read", "unit"):
        emergence = results[step][space].emergence[0]
        row[f"first half, {space}"] = float(emergence[FIRST].mean())
        row[f"repeat, {space}"] = float(emergence[SECOND].mean())
    rows.append(row)
table = pd.DataFrame(rows).set_index("step")
table.round(2)

# %%
exact = {name: float(ceiling.emergence[0, where].mean()) for name, where in (("f", FIRST), ("r", SECOND))}
control = results[kept_steps()[-1]]["read"].controls["shuffled_weights"].emergence[0]
print("exact", exact, "shuffled", float(control[FIRST].mean()), float(control[SECOND].mean()))

# %%
x = range(len(table))
figure, panels = plt.subplots(
    3, 1, figsize=(7.2, 7.6), sharex=True, layout="constrained", height_ratios=[1, 1, 1.5]
)
loss, scores, info = panels
loss.plot(
    x,
    table["loss, first half"],
    "o-",
    color="tab:blue",
    markersize=4,
    label="first half (cannot be foreseen)",
)
loss.plot(x, table["loss, repeat"], "o-", color="tab:red", markersize=4, label="repeat")
loss.set_ylabel("loss (bits)")
scores.plot(
    x, table["previous token"], "s-", color="tab:green", markersize=4, label="previous token, best of layer 0"
)
scores.plot(x, table["induction"], "s-", color="tab:purple", markersize=4, label="induction, best of layer 1")
scores.set(ylabel="attention paid", ylim=(0, 1))
for half, colour, key in (("repeat", "tab:red", "r"), ("first half", "tab:blue", "f")):
    info.plot(x, table[f"{half}, read"], "o-", color=colour, markersize=4, label=f"{half}, 'read'")
    info.plot(
        x, table[f"{half}, unit"], "o--", color=colour, markersize=3, linewidth=1, label=f"{half}, 'unit'"
    )
    info.axhline(exact[key], color=colour, linestyle=":", linewidth=1)
    info.text(-0.3, exact[key] + 0.1, f"exact, {half}", color=colour, fontsize=8)
info.plot([x[-1]], [float(control[SECOND].mean())], "*", color="tab:red", markersize=9)
info.plot(
    [x[-1]],
    [float(control[FIRST].mean())],
    "*",
    color="tab:blue",
    markersize=9,
    label="last step, weights shuffled",
)
info.set(ylabel="emergence of block 1 (bits)", xlabel="training step", ylim=(-0.3, 9.6))
info.set_xticks(x, [str(step) for step in table.index])
for axes in panels:
    axes.axvspan(4, 5, color="0.9", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
figure.suptitle("t")
plt.show()

# %%
model = load_induction_model()
measured, held_out = prompts.take(slice(2016)), prompts.take(slice(2016, None))
identified = pd.DataFrame(
    {
        "previous token": circuits.previous_token_scores(model, measured, bos_token_id=BOS).flatten(),
        "induction": circuits.induction_scores(model, measured, period=PERIOD, bos_token_id=BOS).flatten(),
        "entropy (bits)": circuits.attention_entropies(model, measured, bos_token_id=BOS).flatten(),
        "norm": circuits.head_norms(model, measured, bos_token_id=BOS).flatten(),
    },
    index=[f"L{layer}H{head}" for layer in range(2) for head in range(4)],
)
identified.round(2)

# %%
metrics = [
    circuits.next_token_loss(SECOND),
    circuits.emergence_at([1], SECOND, space="read", name="emergence"),
    circuits.emergence_at([1], SECOND, space="unit", name="emergence unit"),
]
ablated = {
    kind: tle.ablate_heads(
        model, measured, metrics, kind=kind, reference=None if kind == "zero" else held_out, bos_token_id=BOS
    )
    for kind in ("mean", "mean_pos", "zero")
}
effects = ablated["mean"]
print(effects.summary())
effects.plot()

# %%
beside = pd.DataFrame(
    {
        (metric, kind): found.values(metric).values.mean(dim=1)
        for metric in effects.metrics
        for kind, found in ablated.items()
    },
    index=effects.values("loss").labels,
)
beside.round(2)

# %%
whole = tle.ablate_blocks(model, measured, metrics, kind="mean_pos", reference=held_out, bos_token_id=BOS)
whole.summary()
print(whole.summary())

# %%
_, cache = model.run_with_cache(circuits.model_tokens(model, measured, bos_token_id=BOS))
pattern = cache["blocks.0.attn.hook_pattern"][:, :, 1:]
back = pd.DataFrame(
    {f"{k} back": pattern.diagonal(1 - k, 2, 3)[..., 5:].mean(dim=(0, 2)) for k in range(5)},
    index=[f"L0H{head}" for head in range(4)],
)
back.round(2)

# %%
baselines = {
    "head norm": identified["norm"].to_numpy(),
    "attention entropy": identified["entropy (bits)"].to_numpy(),
    "induction score": identified["induction"].to_numpy(),
}
report = tle.correlate(
    [effects.values("emergence"), effects.values("emergence unit")],
    effects.values("loss"),
    baselines=baselines,
)
print(report.summary())
report.plot()

# %%
others = {
    kind: tle.correlate(found.values("emergence"), found.values("loss"), baselines=baselines)
    for kind, found in ablated.items()
}
for kind, found in others.items():
    print(
        kind,
        found.pairs[0].spearman,
        found.pairs[0].low,
        found.pairs[0].high,
        found.pairs[0].p,
        [(b.name, b.spearman, b.low, b.high) for b in found.pairs[0].baselines],
    )
