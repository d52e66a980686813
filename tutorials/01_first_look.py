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
# # A first look: where do tokens become more than the sum of their parts?
#
# A prompt such as ` France, Germany, Italy, Spain,` is more than four words: somewhere in the network the
# state above the last comma comes to carry the whole list. **Information emergence** asks where, and how much
# (Chen et al., [arXiv 2405.12617](https://arxiv.org/abs/2405.12617)). For block $l$ and content position $t$,
#
# $$ E(l,t) = \underbrace{I\big(h_l^t \,;\, h_{l+1}^t\big)}_{\text{macro: in the whole prompt}}
#    \;-\; \operatorname{mean}_{t' \le t}
#    \underbrace{I\big(m_l(s_{t'}) \,;\, m_{l+1}(s_{t'})\big)}_{\text{micro: each token run alone}}
#    \qquad \text{in bits,} $$
#
# where $h_l^t$ is the residual stream entering block $l$ and $m_l(s)$ the same when the token $s$ is run
# alone. If it is positive, the block carries more of the prompt than its tokens carry by themselves.
#
# This page runs on a real model, Gemma 3 270M, in two or three minutes on two CPU cores. Every number was
# printed by the code beside it, and the last cell checks the claims made in the text.

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

import tl_emergence as tle

model = tle.models.load("gemma-3-270m")  # any TransformerBridge or HookedTransformer of yours works as well
print(model.cfg.n_layers, "blocks, d_model", model.cfg.d_model)

# %% [markdown]
# ## The prompts
#
# Ordered draws of four from 25 countries, each one token, a comma after each. There are 25 · 24 · 23 · 22
# such lists; we take 1,024 of them. BOS is put in front of every prompt and every single token when the
# model runs: it is the same everywhere and carries no information, so it is not among the eight content
# tokens.

# %%
prompts = tle.prompts.demonstrations("country", model, shots=4, n=1024, seed=0)
print(prompts)
for row in prompts.tokens[:3]:
    print(repr(model.tokenizer.decode(row.tolist())))

# %% [markdown]
# ## First the ceiling, without any model
#
# A transformer is a deterministic map, and almost surely an injective one: two different prompts never end
# in exactly the same state. So on a finite set of prompts the *exact* Shannon information is known before
# the model is run. From block 1 on, macro is the entropy of the tokens read so far, and micro the entropy
# of one token. (Block 0 reads the bare embedding, which knows its own token only.)

# %%
ceiling = tle.exact_emergence(prompts, layers=[0, 1])
pd.DataFrame(
    {
        "macro, block 0": ceiling.macro[0],
        "macro, block ≥ 1": ceiling.macro[1],
        "micro": ceiling.micro[1],
        "emergence, block ≥ 1": ceiling.emergence[1],
    },
    index=prompts.labels,
).round(3)

# %% [markdown]
# The staircase is a property of the *prompts*: it rises when a new country arrives and stays level (or
# falls a little, for micro's mean moves) at a comma. It flattens at log2 1,024 = 10 bits, because 1,024
# distinct prompts cannot carry more. With all 303,600 lists it would go on to 18.21 bits. No number below
# can say anything about the model unless it is seen against this ceiling.

# %%
everything = tle.prompts.demonstrations("country", model, shots=4, n="all")
whole = tle.exact_emergence(everything, layers=[1])
print(
    f"{len(everything):,} lists: macro {whole.macro[0, -1]:.4f}, emergence {whole.emergence[0, -1]:.4f} bits"
)

# %% [markdown]
# ## What can differ between models: information at a resolution
#
# What a network does to its states is to make some differences large and others tiny. So we ask how many
# bits survive when Gaussian noise of size sigma is added to both states: `estimator="noise"`, sigma 0.5 by
# default.
#
# Then it matters in which **space** a state is seen, and we name it each time:
#
# * `read`: as the block above reads it: its own norm applied, learned gain included, then scaled to RMS 1;
# * `unit`: the same without the learned gain.
#
# And we run a **control**: the same measurement after the entries of every weight matrix have been shuffled.

# %%
spaces = tle.information_emergence(
    model, prompts, sigma=0.5, space=("read", "unit"), controls=("shuffled_weights",)
)
read, unit = spaces["read"], spaces["unit"]
print(read.summary())

# %% [markdown]
# How to read that table, row by row:
#
# * **macro, micro, emergence** are estimates, with their standard errors. *(sat.)* marks values above 0.9
#   of the cap: there the number of prompts is measured, not the model.
# * **exact** is the value of the cell before: emergence without noise. Macro and micro cannot exceed their
#   exact values; their difference can, where noise takes more from micro than from macro.
# * **weight-shuffled** is the control. It reaches the ceiling from block 2 on: a network that has learned
#   nothing keeps every prompt apart, and so has the *greatest* emergence there can be. A high score is
#   therefore no sign of understanding. What training adds is the opposite: it decides what is kept large
#   and what is let go.
# * **at N = …** is the same emergence with fewer prompts. Where it grows by about a bit when N doubles, the
#   number is still following log2 N: compare at equal N only.

# %% [markdown]
# ## The map of the model
#
# One row a block, one column a position; red is positive emergence, blue negative, and the scale ends at the
# exact value. Framed cells are saturated.

# %%
spaces.plot()

# %% [markdown]
# Read it from the left column to the right:
#
# 1. The first columns are pale everywhere: one country is no list yet.
# 2. In **`read`** the list is at the separators early: the last column is red from block 5 on.
# 3. In **`unit`** the same column is blue up to block 10 (it carries less than its tokens do alone) and turns
#    red at blocks 11 and 12. It looks as if the list were gathered at the commas only then.
# 4. The **control** is close to its ceiling in block 1, as soon as attention has run once, and at it from
#    block 2 on.
#
# Which of the two is right about the list? Here are both, with the paper's way of drawing: along the
# blocks, at the last comma.

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for result, colour in ((read, "tab:blue"), (unit, "tab:orange")):
    axes.errorbar(
        result.layers,
        result.emergence[:, -1],
        yerr=result.stderr[:, -1],
        color=colour,
        marker="o",
        markersize=4,
        capsize=2,
        label=f"space {result.space!r}",
    )
control = read.controls["shuffled_weights"]
axes.plot(control.layers, control.emergence[:, -1], "--", color="0.5", label="weights shuffled, 'read'")
axes.plot(read.layers, read.exact.emergence[:, -1], color="black", linewidth=1.2, label="exact (no noise)")
axes.axhline(read.cap_bits, color="firebrick", linestyle=":", label=f"cap of macro: {read.cap_bits:.0f}")
axes.axvspan(9, 12, color="0.92", zorder=0)
axes.set(xlabel="block", ylabel="emergence at the last comma (bits)", xticks=range(0, 18, 3))
axes.set_title("The rise between blocks 9 and 12 is there in 'unit' only", fontsize=10)
axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
axes.spines[["top", "right"]].set_visible(False)

# %%
rise = pd.DataFrame(
    {
        "block 9": [read.at(9, 7)[0], unit.at(9, 7)[0]],
        "block 12": [read.at(12, 7)[0], unit.at(12, 7)[0]],
    },
    index=["read", "unit"],
)
rise["rise (bits)"] = rise["block 12"] - rise["block 9"]
rise.round(2)

# %% [markdown]
# ## Why: a few massive dimensions
#
# The residual stream of this model has *massive activations*: in the middle blocks one or two of its 640
# dimensions hold nearly all of a state's length. `unit` divides the whole state by that length, so
# everything else, the list included, becomes small beside noise of size 0.5. The next block does not see it
# that way: its norm has a learned gain that turns those dimensions down, and `read` applies it.
#
# If that is the reason, then striking out those two dimensions should bring the bits back in `unit`, and
# striking out two others should not. We have the states, so we can try.

# %%
states = tle.capture_states(model, prompts, positions=[7])


def view(layer: int, space: str, without: list[int] = ()) -> torch.Tensor:
    """Return the states above the last comma in a space, after striking out some dimensions."""
    h = states.macro[0][layer].clone()
    h[:, list(without)] = 0
    return tle.capture.in_space(h, layer, space, states.reading, scale=1.0)


def bits(layer: int, space: str, strike: slice | None = None) -> float:
    """Return macro bits of a block; `strike` picks dimensions by rank of their energy in each state."""
    pair = []
    for end in (layer, layer + 1):
        by_energy = states.macro[0][end].square().mean(dim=0).argsort(descending=True)
        pair.append(view(end, space, [] if strike is None else by_energy[strike].tolist()))
    return tle.mutual_information(*pair, estimator="noise", sigma=0.5, seed=0).bits


rows = {}
for layer in (3, 6, 9, 11, 12, 15):
    energy = {s: view(layer, s).square().mean(dim=0).sort(descending=True).values for s in ("unit", "read")}
    rows[layer] = {
        "energy in 2 dims, unit": f"{energy['unit'][:2].sum() / energy['unit'].sum():.0%}",
        "energy in 2 dims, read": f"{energy['read'][:2].sum() / energy['read'].sum():.0%}",
        "macro, unit": bits(layer, "unit"),
        "unit without those 2": bits(layer, "unit", slice(0, 2)),
        "unit without 2 others": bits(layer, "unit", slice(10, 12)),
        "macro, read": bits(layer, "read"),
    }
why = pd.DataFrame(rows).T.rename_axis("block")
why.style.format("{:.2f}", subset=list(why.columns[2:]))

# %% [markdown]
# At block 9 two dimensions hold nearly all of the state's energy in `unit`. Without them almost the whole
# list is there; without two others nothing changes. So the list *was* at the commas before block 9, in
# directions that are small beside the massive ones, and the block's gain makes them large again when it
# reads. What happens between blocks 9 and 12 is that the rest of the state grows beside the massive
# dimensions (their share of the energy falls), not that the list arrives. At blocks 3 and 6 two dimensions
# are not the whole story: striking them out brings back a part.
#
# Neither space is wrong. `unit` answers "what would a reader see who takes the state as it is?", `read`
# answers "what does this block see?". A figure of one of them alone, without its name, would have told a
# story.

# %% [markdown]
# ## The dial: sigma
#
# Bits at one resolution are one point of a curve. A sweep costs little more than a single sigma, because
# all noise levels share states and draws.

# %%
sweep = tle.information_emergence(
    model, prompts, sigma=(0.125, 0.25, 0.5, 1.0, 2.0), positions=[7], layers=[1, 3, 6, 9, 12, 17]
)
sweep.plot()

# %% [markdown]
# To the left every curve tends to the ceiling, whatever the model does. To the right macro goes to nothing
# before micro does, so emergence falls below zero, and with more noise still it would end at zero. Only the
# middle tells blocks apart: choose sigma there, and show the curve.
#
# ## Keep it
#
# A result is a frozen record: settings, seeds, versions and controls are inside. It is saved as JSON and
# safetensors and loads without the model.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    spaces.save(Path(folder) / "first-look")
    again = tle.load_result(Path(folder) / "first-look")
table = again.to_dataframe()
there = table[(table.layer == 9) & (table.pos == 7) & (table.metric == "emergence")]
there.loc[:, there.nunique() > 1]  # the columns in which they differ

# %% [markdown]
# ## What this does not show
#
# * It describes these 1,024 prompts at this resolution. Another set or another N is another number.
# * Emergence is a difference of two estimates and bounds nothing.
# * That a block carries bits does not say that the model *uses* them. That takes an intervention.
# * The weights are a 4-bit quantisation, dequantised: "Gemma 3 270M base, Q4_K_M, dequantised".
#
# The claims of this page, checked:

# %%
at = "macro, unit", "unit without those 2", "unit without 2 others"
assert round(float(whole.macro[0, -1]), 4) == 18.2118
assert float((control.exact.emergence - control.emergence)[2:, -1].abs().max()) < 0.1  # at its ceiling
assert unit.at(9, 7)[0] < 0 < 7 < unit.at(12, 7)[0]  # the rise is in unit
assert read.at(9, 7)[0] > 5 and abs(read.at(12, 7)[0] - read.at(9, 7)[0]) < 1  # and not in read
assert float(read.emergence[5:, -1].min()) > 5 and float(unit.emergence[:11, -1].max()) < 0
assert why.loc[9, at[0]] < 0.6 and why.loc[9, at[1]] > 9 and why.loc[9, at[2]] < 0.6
assert torch.equal(again["unit"].emergence, unit.emergence)
print("all claims hold")
