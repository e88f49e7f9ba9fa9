"""Steps to a fixed loss by batch size in the experiment critical_batch, from its file of results."""

import json
from pathlib import Path

import numpy as np
from _picture import BLUE, GREEN, LIGHT, RED, finish, panels

results = json.loads(Path("experiments/results/critical_batch.json").read_text())
found = {name: value["mean"] for name, value in results["tables"][""]["arms"]["images"]["metrics"].items()}
batch = np.geomspace(16, 8192, 200)
steps = found["fewest_steps"] + found["fewest_examples"] / batch
figure, (axis,) = panels(1, width=6, height=4.2)
axis.loglog(batch, steps, color=BLUE, label="fit a + b / B")
axis.loglog(batch, found["fewest_examples"] / batch, ":", color=LIGHT, lw=2, label="b / B")
ends = [found["steps_smallest"], found["steps_largest"]]
axis.plot([16, 8192], ends, "o", color="black", label="measured")
axis.axvline(found["critical_batch"], ls="--", color=RED, label="critical batch")
axis.axvline(found["noise_scale"], ls="-.", color=GREEN, label="noise scale")
axis.set(xlabel="batch size", ylabel="steps to the goal", ylim=(150, 3500))
axis.set_xticks([16, 64, 256, 1024, 4096], ["16", "64", "256", "1024", "4096"])
axis.set_yticks([200, 500, 1000, 2000], ["200", "500", "1000", "2000"])
axis.minorticks_off()
finish(figure, axis)
