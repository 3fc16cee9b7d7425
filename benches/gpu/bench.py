"""What the items share: settings from the environment, vidgen as a process, diffusers as a child that stays warm, the memory
that a device has in use, and the tables."""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SMOKE = os.environ.get("SMOKE", "") not in ("", "0")
VIDGEN = os.environ.get("VIDGEN") or str(ROOT / "target" / ("" if SMOKE else "cuda") / "release/vidgen")
DEVICE = os.environ.get("DEVICE") or ("cpu" if SMOKE else "cuda")
ROUNDS = int(os.environ.get("ROUNDS") or (1 if SMOKE else 3))
OUT = pathlib.Path(os.environ.get("OUT") or ROOT / "out/gpu")
# where models are made; 14 GB for 2B, 13 for 5B
WORK = pathlib.Path(os.environ.get("WORK") or tempfile.gettempdir()) / ("vidgen-gpu-smoke" if SMOKE else "vidgen-gpu")
PROMPT = "a red ball rolls to the right in a green meadow on a sunny day"
STORY = ["a red ball rolls", "a blue ball rolls", "a green box rests"]
CUDA = DEVICE.startswith("cuda")


def model(name, *flags):
    """The folder of a random model, made where it is not there."""
    flags = [*flags, "--small"] if SMOKE else list(flags)
    folder = WORK / "-".join([name, *(flag.strip("-") for flag in flags)])
    if not (folder / "model_index.json").exists():
        if folder.exists():
            raise SystemExit(f"error: {folder} is not whole: remove it")
        began = time.time()
        subprocess.run([sys.executable, HERE / "model.py", name, folder, *flags], check=True, stdout=sys.stderr)
        print(f"{folder} made in {time.time() - began:.0f} s", file=sys.stderr)
    return folder


class Used:
    """The most memory that the device had in use inside a `with`, above what was in use before; None without CUDA."""

    def __enter__(self):
        self.bytes, self.reader = None, None
        if CUDA:
            words = ["nvidia-smi", f"--id={DEVICE.partition(':')[2] or 0}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
            before = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) << 20
            self.process = subprocess.Popen([*words, "--loop-ms=50"], stdout=subprocess.PIPE, text=True)
            self.bytes = 0

            def read():
                for line in self.process.stdout:
                    self.bytes = max(self.bytes, (int(line) << 20) - before)

            self.reader = threading.Thread(target=read, daemon=True)
            self.reader.start()
        return self

    def __exit__(self, *_):
        if self.reader:
            self.process.terminate()
            self.reader.join()


def vidgen(command, *words, wrap=(), device=DEVICE, **env):
    """Runs vidgen with --json; seconds by phase, and the peak of the device's memory, on the CPU of the process's."""
    with tempfile.TemporaryDirectory() as home:
        words = [*wrap, VIDGEN, command, *map(str, words), "--device", device, "--json", "--quiet", "-y"]
        env = {**os.environ, "HOME": home, "XDG_CACHE_HOME": home, "XDG_STATE_HOME": home, **env}
        began = time.time()
        with Used() as used:
            done = subprocess.run(words, env=env, capture_output=True, text=True)
        whole = time.time() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr.strip()}")
    result = next(line for line in done.stdout.splitlines() if line.startswith("{"))  # a profiler says more
    run = json.loads(result)["manifest"]["run"]
    seconds = run["seconds"]
    work = sum(seconds[phase] for phase in ("encode", "denoise", "decode", "mux"))
    return dict(whole=whole, seconds=work, phases=seconds, peak=used.bytes if CUDA else run["peak_memory"])


class Diffusers:
    """diffusers in a process of its own, which loads once and answers as often as it is asked."""

    def __init__(self, folder, dtype, compiled=False):
        words = [sys.executable, HERE / "diffusers_child.py", folder, dtype, DEVICE, *(["--compile"] if compiled else [])]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loaded = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"diffusers ended with exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, do, **what):
        print(json.dumps(dict(do=do, **what)), file=self.process.stdin, flush=True)
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def median(rows, key="seconds"):
    return statistics.median(row[key] for row in rows)


def ratio(theirs, ours, key="seconds"):
    """Median of the ratios of the rounds: above 1, ours is better."""
    return statistics.median(b[key] / a[key] for a, b in zip(ours, theirs))


def gigabytes(count):
    return "" if count is None else f"{count / 1e9:.2f}"


class Report:
    """A table and what stands below it, as markdown and as JSON."""

    def __init__(self, item, title, columns):
        self.item, self.title, self.columns, self.rows, self.goals, self.notes, self.raw = item, title, columns, [], [], [], {}

    def row(self, *cells):
        self.rows.append([str(cell) for cell in cells])

    def goal(self, text, met):
        """On the CPU, with small models, goals of a GPU mean nothing."""
        self.goals.append(dict(goal=text, met=None if SMOKE else bool(met)))

    def note(self, text):
        self.notes.append(text)

    def write(self):
        import torch

        device = torch.cuda.get_device_name() if CUDA else f"CPU ({platform.machine()})"
        version = subprocess.run([VIDGEN, "--version"], check=True, capture_output=True, text=True).stdout.strip()
        about = dict(device=device, vidgen=version, torch=torch.__version__, rounds=ROUNDS, smoke=SMOKE, load=os.getloadavg()[0],
                     when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        lines = [f"## {self.item}. {self.title}", ""]
        if SMOKE:
            lines += ["Small models on a CPU: shows that the script works, and nothing about speed.", ""]
        lines += ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        said = {None: "not looked at", True: "met", False: "missed"}
        lines += [""] + [f"- goal: {g['goal']}: {said[g['met']]}" for g in self.goals] + [f"- {note}" for note in self.notes]
        lines += [f"- {device}, {version}, torch {torch.__version__}, {ROUNDS} rounds, load {about['load']:.1f}"]
        text = "\n".join(lines) + "\n"
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / f"item{self.item}.md").write_text(text)
        whole = dict(item=self.item, title=self.title, about=about, columns=self.columns, rows=self.rows, goals=self.goals,
                     notes=self.notes, raw=self.raw)
        (OUT / f"item{self.item}.json").write_text(json.dumps(whole, indent=1) + "\n")
        print(text)
