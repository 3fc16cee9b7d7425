"""Item 4: the parts on their own: decoding 49 and 145 frames, encoding a prompt, loading."""

import json

import torch
from bench import PROMPT, ROUNDS, SMOKE, WORK, Diffusers, Report, gigabytes, median, model, ratio, vidgen
from safetensors.torch import save_file

HEIGHT, WIDTH = (32, 48) if SMOKE else (480, 720)


def main():
    folder = model("cogvideox-2b")
    child = Diffusers(folder, "float32" if SMOKE else "float16")
    report = Report(4, "parts of CogVideoX-2B", ["", "vidgen s", "diffusers s", "vidgen is faster by", "vidgen peak GB", "diffusers peak GB"])

    def compare(name, ours, theirs):
        rows = ([], [])
        theirs()
        for _ in range(ROUNDS):
            rows[0].append(ours())
            rows[1].append(theirs())
        peaks = [gigabytes(median(side, "peak")) if side[0].get("peak") else "" for side in rows]
        report.row(name, f"{median(rows[0]):.2f}", f"{median(rows[1]):.2f}", f"{ratio(rows[1], rows[0]):.2f}x", *peaks)
        report.raw[name] = dict(vidgen=rows[0], diffusers=rows[1])

    channels = json.loads((folder / "transformer/config.json").read_text())["in_channels"]
    for latent_frames in (13, 37):
        path = WORK / f"latents-{latent_frames}.safetensors"
        shape = (1, latent_frames, channels, HEIGHT // 8, WIDTH // 8)
        save_file({"latents": torch.randn(shape, generator=torch.Generator().manual_seed(7))}, path)

        def ours():
            run = vidgen("decode", path, "--model", folder, "-o", WORK / "decoded.y4m")
            return dict(run, seconds=run["phases"]["decode"])

        size = dict(latent_frames=latent_frames, height=HEIGHT, width=WIDTH)
        compare(f"decode {4 * (latent_frames - 1) + 1} frames", ours, lambda: child.ask("decode", **size))

    quick = ["--model", folder, "--steps", 1, "--frames", 1, "--size", f"{WIDTH}x{HEIGHT}", "--text-cache", "off",
             "-o", WORK / "quick.y4m"]

    def phase(name):
        run = vidgen("generate", PROMPT, *quick)
        return dict(seconds=run["phases"][name], peak=None)

    compare("T5-XXL, one prompt", lambda: phase("encode"), lambda: child.ask("encode", prompt=PROMPT))
    loads = [phase("load") for _ in range(ROUNDS)]
    report.row("load transformer and vae", f"{median(loads):.2f}", f"{child.loaded['seconds']:.2f}", "", "", "")
    report.note("vidgen reads the text encoder block by block while it encodes, so its figure has the load; diffusers' encodes only, "
                "and its load is of all parts, once, with files that the generator has just written")
    report.raw["load"] = dict(vidgen=loads, diffusers=child.loaded)
    report.write()
    child.close()


if __name__ == "__main__":
    main()
