"""Tests of the training on real clips, with Toyland's pictures as those. `python test_dreamvideo2.py`"""

import json
import os
import random
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import torch
from diffusers import UNet3DConditionModel
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import subject  # noqa: E402
from clips import Clips, alone, box_of, cropped, natural  # noqa: E402
from render import render  # noqa: E402
from world import caption, sample  # noqa: E402

BASE = os.path.join(HERE, "..", "..", "models", "toyland-video")


def written(folder: str, count: int) -> str:
    """A data set of rendered clips."""
    rng, lines = random.Random(3), []
    for i in range(count):
        scene = sample(rng)
        clip = render([scene], 18, 96, 144, device="cpu", start=[0.0])
        for kind, frames in (("clips", ((clip.video[0].transpose(0, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)),
                             ("masks", (clip.mask[0, 0] * 255).round().byte())):
            target = os.path.join(folder, kind, str(i))
            os.makedirs(target)
            for k, frame in enumerate(frames):
                Image.fromarray(frame.numpy()).save(os.path.join(target, f"{k}.png"))
        lines.append(json.dumps({"frames": f"clips/{i}", "masks": f"masks/{i}", "caption": caption(scene, rng)}))
    file = os.path.join(folder, "clips.jsonl")
    with open(file, "w") as out:
        out.write("\n".join(lines) + "\n")
    return file


class Laws(unittest.TestCase):
    def test_the_loss_counts_boxes_by_their_weight(self):
        made, target = torch.zeros(2, 4, 3, 6, 8), torch.ones(2, 4, 3, 6, 8)
        inside = torch.zeros(2, 1, 3, 6, 8)
        self.assertEqual(subject.reweighted(made, target, inside, 2.0).item(), 1.0)
        inside[..., :4] = 1
        self.assertEqual(subject.reweighted(made, target, inside, 2.0).item(), 1.5)
        self.assertEqual(subject.reweighted(made, target, inside.fill_(1), 2.0).item(), 2.0)

    def test_new_modules_leave_the_base_as_it_is(self):
        unet = UNet3DConditionModel.from_pretrained(os.path.join(BASE, "unet")).float().eval()
        net = subject.Subject(unet, (8, 8, 8, 8), 1, 2).eval()
        z, t, text = torch.randn(1, 4, 5, 12, 18), torch.tensor([400]), torch.randn(1, 32, 64)
        boxes = [(0.1, 0.1, 0.5, 0.5)] * 5
        masks = torch.stack([subject.pixel_mask(box, 96, 144) for box in boxes])[None]
        with torch.no_grad():
            plain = unet(z, t, text).sample
            net.reference_attention.collect(unet, torch.randn(1, 4, 12, 18), text)
            self.assertEqual(len(net.reference_attention.features), 8)
            self.assertTrue(torch.equal(net.predict(z, t, text, boxes, masks), plain))
            for module in net.reference_attention.modules():
                if isinstance(module, subject.ReferenceProjections):
                    module.to_out[0].weight.normal_()
            whole = net.predict(z, t, text, boxes, masks, outside=1.0)
            self.assertTrue(torch.equal(net.predict(z, t, text, None, None), whole))
            self.assertFalse(torch.equal(net.predict(z, t, text, boxes, masks, outside=0.0), whole))


class Data(unittest.TestCase):
    def test_boxes_follow_the_crop(self):
        # 200 x 100 covers 50 x 50 at half its size; 25 columns are cut off on each side
        self.assertEqual(cropped((0.25, 0.0, 0.5, 1.0), (200, 100), (50, 50)), (0.0, 0.0, 0.5, 1.0))
        self.assertIsNone(cropped((0.0, 0.0, 0.2, 1.0), (200, 100), (50, 50)))
        mask = np.zeros((10, 20), np.uint8)
        mask[2:5, 4:8] = 255
        self.assertEqual(box_of(mask), (0.2, 0.2, 0.4, 0.5))
        self.assertIsNone(box_of(np.zeros((3, 3), np.uint8)))
        self.assertEqual(sorted(["10.png", "9.png", "a1.png"], key=natural), ["9.png", "10.png", "a1.png"])

    def test_a_subject_stands_on_white(self):
        picture, mask = Image.new("RGB", (40, 30), (200, 0, 0)), Image.new("L", (40, 30))
        mask.paste(255, (10, 10, 20, 15))
        made = np.asarray(alone(picture, mask, (64, 48), None))
        self.assertEqual(box_of(255 - made[..., 1]), (6 / 64, 11 / 48, 57 / 64, 37 / 48))
        varied = np.asarray(alone(picture, mask, (64, 48), random.Random(1)))
        self.assertEqual(varied.shape, (48, 64, 3))

    def test_what_cannot_be_used_is_counted(self):
        with tempfile.TemporaryDirectory() as folder:
            file = written(folder, 2)
            data = Clips(file, (144, 96), 16)
            self.assertEqual((len(data), data.left_out), (2, {}))
            sample = data[0]
            self.assertEqual((tuple(sample["video"].shape), tuple(sample["boxes"].shape)), ((16, 3, 96, 144), (16, 4)))
            with open(file, "a") as out:
                out.write(json.dumps({"frames": "clips/0", "masks": "masks/0", "caption": "x", "boxes": [None] * 18}) + "\n")
                out.write(json.dumps({"frames": "clips/0", "masks": "masks/0", "caption": "x", "boxes": [[0.5, 0.5, 0.51, 0.51]] * 18}) + "\n")
            self.assertEqual(sum(Clips(file, (144, 96), 16).left_out.values()), 2)
            with self.assertRaises(SystemExit):
                Clips(file, (144, 96), 99)


class Run(unittest.TestCase):
    def test_it_trains_goes_on_and_writes_a_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            file, out = written(folder, 2), os.path.join(folder, "out")
            call = [sys.executable, os.path.join(HERE, "train.py"), "--base", BASE, "--data", file, "--out", out, "--size", "144", "96",
                    "--accumulate", "2", "--save", "1", "--workers", "0"]
            for more in (["--updates", "1"], ["--updates", "2", "--resume"]):
                done = subprocess.run(call + more, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stderr)
            with open(os.path.join(out, "model_index.json")) as index:
                self.assertEqual(json.load(index)["_class_name"], "DreamVideo2Pipeline")
            for part in ("reference_attention", "motion_encoder", "controlnet", "unet", "vae", "text_encoder", "tokenizer", "scheduler"):
                self.assertTrue(os.path.isdir(os.path.join(out, part)), part)
            unet = UNet3DConditionModel.from_pretrained(os.path.join(out, "unet")).float()
            held = subject.load(unet, out)
            self.assertGreater(held.motion_encoder.conv_out.weight.abs().max().item(), 0)


if __name__ == "__main__":
    unittest.main()
