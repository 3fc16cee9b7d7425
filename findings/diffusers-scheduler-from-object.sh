#!/bin/sh
# diffusers 0.42.1: a scheduler made from another one's configuration depends on whether that was written to a file in between.
#
# Expected: the documented way to exchange schedulers, `DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)`, and
# `from_pretrained` on the folder that the same scheduler was saved in, give the same scheduler: both read the same mapping of values.
# Seen: the object remembers which values were never given but defaults of its own class, and from_config leaves those out, so the new
# class's defaults take their place. The saved file has all values and no such memory. PNDM's default spacing of steps, leading,
# survives the file and becomes DPM-Solver's linspace without it: other timesteps, and another video from the same seed.
#
# Output: 0.42.1 / in memory: linspace [999, 899, 799, 699, 599, 500, 400, 300, 200, 100] /
#         by a file: leading [901, 811, 721, 631, 541, 451, 361, 271, 181, 91]
# Exits with 0 while this is so.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check diffusers==0.42.1 torch==2.15.0 numpy==2.4.6
cd "$place"
"$place/venv/bin/python" - <<'PYTHON'
import diffusers
from diffusers import DPMSolverMultistepScheduler, PNDMScheduler

print(diffusers.__version__)
old = PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True)
old.save_pretrained("saved")
steps = {}
for name, new in [
    ("in memory", DPMSolverMultistepScheduler.from_config(old.config)),
    ("by a file", DPMSolverMultistepScheduler.from_pretrained("saved")),
]:
    new.set_timesteps(10)
    steps[name] = (new.config.timestep_spacing, new.timesteps.tolist())
    print(f"{name}: {steps[name][0]} {steps[name][1]}")
assert steps["in memory"][0] == "linspace" and steps["by a file"][0] == "leading", "the behaviour has changed"
assert steps["in memory"][1] != steps["by a file"][1], "the behaviour has changed"
PYTHON
