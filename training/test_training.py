"""Tests of the world and of what the stages share. `python test_training.py`; no training happens here."""

import argparse
import copy
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

import torch

import clip_tokenizer
import edits
import images
import judge_data as data
import tokenizer
import train_transformer
from bank import Bank, cover_of, outline_of
from common import Average, Clock, Muon, State, learning_rate, orthogonal
from edges import canny
from judge import Judge, windows
from render import render
from world import (ATTRIBUTES, COLOURS, FRAMES, HEIGHT, PLACES, SHAPES, TIMES, WIDTH, Scene, caption, evaluation_set, fnv1a,
                   held_out, plain_caption, said, sample)


class World(unittest.TestCase):
    def test_hash_is_fnv1a(self):
        # the published test vectors of FNV-1a, 64 bits
        self.assertEqual(fnv1a(""), 0xCBF29CE484222325)
        self.assertEqual(fnv1a("a"), 0xAF63DC4C8601EC8C)
        self.assertEqual(fnv1a("foobar"), 0x85944171F73967E8)

    def test_a_fifth_is_held_out_and_every_pair_is_trained_on(self):
        every = list(itertools.product(COLOURS, SHAPES, PLACES, TIMES))
        trained = [c for c in every if not held_out(*c)]
        self.assertEqual((len(every), len(trained)), (640, 512))
        for i, j in itertools.combinations(range(4), 2):
            values = set(itertools.product(*([COLOURS, SHAPES, PLACES, TIMES][k] for k in (i, j))))
            self.assertEqual({(c[i], c[j]) for c in trained}, values)

    def test_splits_keep_to_their_side(self):
        rng = random.Random(0)
        for split, unseen in (("train", False), ("unseen", True)):
            for _ in range(200):
                self.assertEqual(held_out(*sample(rng, split).combination()), unseen)

    def test_the_evaluation_set_is_balanced(self):
        scenes = evaluation_set(256)
        self.assertEqual(sum(held_out(*s.combination()) for s in scenes), 128)
        for name, values in ATTRIBUTES.items():
            counts = [sum(getattr(s, name) == value for s in scenes) for value in values]
            self.assertGreater(min(counts), 0.75 * 256 / len(values), name)

    def test_captions_fit_the_vocabulary(self):
        rng, folder = random.Random(1), tempfile.mkdtemp()
        tokenizer.write(folder)
        captions = tokenizer.Captions(folder)
        letters = {i for i, (piece, score) in enumerate(tokenizer.pieces()) if score < -2.0}
        texts = [caption(sample(rng, "all"), rng, 0.2) for _ in range(2000)] + [plain_caption(sample(rng)) for _ in range(100)]
        for row, text in zip(captions.ids(texts).tolist(), texts):
            self.assertFalse(letters & set(row), text)
            self.assertEqual(row.count(1), 1, text)  # the end is inside the 32 tokens


class Renderer(unittest.TestCase):
    def scene(self, **changed) -> Scene:
        return Scene(**({"colour": "red", "shape": "ball", "motion": "right", "place": "meadow", "time": "sunny", "seed": 5} | changed))

    def test_the_box_holds_exactly_the_pixels_that_change_with_the_colour(self):
        for shape, motion, seed in itertools.product(SHAPES, ("right", "bounce", "follow"), (1, 2)):
            red, blue = (self.scene(colour=c, shape=shape, motion=motion, seed=seed) for c in ("red", "blue"))
            clip, other = render([red], 5, start=2.0), render([blue], 5, start=2.0)
            changed = ((clip.video - other.video).abs().sum(1) > 0.05)[0]  # [T, H, W]
            for frame, (x0, y0, x1, y1) in zip(changed, clip.boxes[0].tolist()):
                ys, xs = frame.nonzero(as_tuple=True)
                found = (xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1)
                self.assertGreaterEqual(found[0], x0 - 1.5)
                self.assertGreaterEqual(found[1], y0 - 1.5)
                self.assertLessEqual(found[2], x1 + 1.5)
                self.assertLessEqual(found[3], y1 + 1.5)
                if shape != "star":  # a star's box is that of the circle around it
                    slack = 3.5 if shape != "car" else 6.5  # tyres have no colour
                    self.assertLess(found[0] - x0 + x1 - found[2] + found[1] - y0 + y1 - found[3], 2 * slack, shape)

    def test_mask_and_picture_agree(self):
        scene = self.scene(place="snow")
        with_, without = render([scene], 3), render([scene], 3, opacity=[0.0])
        changed = (with_.video - without.video).abs().sum(1, keepdim=True) > 0.1
        self.assertEqual(without.mask.max().item(), 0.0)
        self.assertGreater(changed[with_.mask > 0.9].float().mean().item(), 0.98)

    def test_the_subject_moves_as_its_label_says(self):
        centres = {}
        for motion in ATTRIBUTES["motion"]:
            boxes = render([self.scene(motion=motion)], FRAMES).boxes[0]
            centres[motion] = torch.stack([boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]], -1) / 2
        self.assertTrue((centres["right"][1:, 0] > centres["right"][:-1, 0]).all())
        self.assertTrue((centres["left"][1:, 0] < centres["left"][:-1, 0]).all())
        self.assertGreater(centres["bounce"][:, 1].std(), 4)
        self.assertLess(centres["still"].std(0).max(), 0.01)
        self.assertLess(centres["follow"].std(0).max(), 3)
        for path in centres.values():
            self.assertTrue(((path > 0) & (path < torch.tensor([WIDTH, HEIGHT]))).all())

    def test_only_following_moves_the_ground(self):
        still, follow = (render([self.scene(motion=m)], 3, opacity=[0.0]).video for m in ("still", "follow"))
        ground = slice(int(0.7 * HEIGHT), None)
        change = lambda v: (v[:, :, 1:, ground] - v[:, :, :-1, ground]).abs().mean().item()
        self.assertLess(change(still), 1e-5)
        self.assertGreater(change(follow), 0.005)

    def test_a_piece_of_a_clip_is_the_clip(self):
        scenes = [self.scene(motion="bounce"), self.scene(motion="follow", place="city", time="night")]
        whole, piece = render(scenes, 12), render(scenes, 4, start=[0.5, 1.0])
        self.assertLess((whole.video[0, :, 4:8] - piece.video[0]).abs().max().item(), 2e-3)
        self.assertLess((whole.video[1, :, 8:12] - piece.video[1]).abs().max().item(), 2e-3)


class Shared(unittest.TestCase):
    def test_windows_cover_every_frame(self):
        for frames in (2, 13, 16, 17, 24, 49, 97, 600):
            seen = set()
            for start, length in windows(frames):
                self.assertLessEqual(length, 16)
                seen |= set(range(start, start + length))
            self.assertEqual(seen, set(range(frames)))

    def test_folding_changes_nothing(self):
        torch.manual_seed(0)
        judge = Judge()
        for module in judge.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                torch.nn.init.normal_(module.weight)
        video = torch.rand(20, 3, HEIGHT, WIDTH) * 2 - 1
        before = judge.eval().judge(video)
        after = judge.fold().judge(video)
        for key, value in before.items():
            self.assertLess((value - after[key]).abs().max().item(), 1e-3 * (1 + value.abs().max().item()), key)

    def test_blocks_and_blur_are_mild_at_their_limits(self):
        x = render([sample(random.Random(3))], 1).video[:, :, 0]
        self.assertLess((data.blocks(x, 1e-3) - x).abs().max().item(), 0.05)
        self.assertLess((data.blur(x, torch.tensor([0.1])) - x).abs().max().item(), 1e-3)

    def test_state_comes_back(self):
        torch.manual_seed(0)
        net = torch.nn.Linear(4, 4)
        average, optimizer = Average(net, 0.9), torch.optim.AdamW(net.parameters(), lr=0.1)
        for _ in range(3):
            net(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            average.update()
        state, clock = State(tempfile.mkdtemp()), Clock(1, 2, 0.5)
        state.save(net, average, optimizer, clock, {"steps": 3})
        other = torch.nn.Linear(4, 4)
        fresh, again = Average(other, 0.9), torch.optim.AdamW(other.parameters(), lr=0.1)
        record = state.load(other, fresh, again)
        self.assertEqual(record["steps"], 3)
        self.assertAlmostEqual(record["minutes"], 0.5, places=1)
        for a, b in zip(net.parameters(), other.parameters()):
            self.assertLess((a - b).abs().max().item(), 1e-3)
            one, two = optimizer.state[a]["exp_avg_sq"], again.state[b]["exp_avg_sq"]
            self.assertLess(((one - two).abs() / (one + 1e-12)).max().item(), 0.02)
        other(torch.randn(8, 4)).square().mean().backward()
        again.step()
        self.assertTrue(all(os.path.getsize(state.path(f"{n}.safetensors")) for n in ("raw", "ema", "adam")))

    def test_the_learning_rate_goes_up_stays_and_falls(self):
        clock = Clock(1, 1, 0, steps=1000)
        rates = []
        for _ in range(1000):
            clock.tick()
            rates.append(learning_rate(1.0, clock, warmup=100))
        self.assertAlmostEqual(rates[49], 0.5, places=2)
        self.assertEqual(rates[300], 1.0)
        self.assertAlmostEqual(rates[-1], 0.01, places=2)


class Updates(unittest.TestCase):
    def test_updates_are_made_orthogonal(self):
        torch.manual_seed(0)
        for shape in ((32, 32), (24, 96), (96, 24)):
            x = torch.randn(shape)
            values = torch.linalg.svdvals(orthogonal(x))
            self.assertGreater(values.min().item(), 0.5)
            self.assertLess(values.max().item(), 1.3)
            # the same directions: x and its nearest orthogonal matrix have the same singular vectors
            left, _, right = torch.linalg.svd(x, full_matrices=False)
            core = left.T @ orthogonal(x) @ right.T
            self.assertLess((core - torch.diag(core.diagonal())).abs().max().item(), 1e-3)
            rounded = orthogonal(x.bfloat16()).float()
            self.assertLess((rounded - orthogonal(x)).norm().item() / rounded.norm().item(), 0.05)

    def test_muon_learns_and_leaves_out_nothing(self):
        torch.manual_seed(0)
        net = torch.nn.Linear(8, 8)
        before = [p.detach().clone() for p in net.parameters()]
        optimizer = Muon([net.weight], [net.bias], lr=0.01, weight_decay=0.0)
        x, wanted = torch.randn(64, 8), torch.randn(64, 8)
        losses = []
        for _ in range(50):
            loss = (net(x) - wanted).square().mean()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.assertLess(losses[-1], losses[0] - 0.1)
        self.assertTrue(all((a - b).abs().min() > 0 for a, b in zip(before, net.parameters())))


class Banks(unittest.TestCase):
    def bank(self, frames: int) -> Bank:
        """Latents that are what they stand for: the mean colour of each cell."""
        bank = Bank(None, (HEIGHT, WIDTH), frames, "cpu")
        rng = random.Random(4)
        bank.scenes = [sample(rng) for _ in range(6)]
        clip = render(bank.scenes, frames)
        bank.outline = (outline_of(clip.mask) * 255).round().byte()
        bank.z = torch.stack([cover_of(clip.video[:, i:i + 1]) for i in range(3)], 2)
        return bank

    def test_a_latent_frame_covers_the_first_frame_or_four(self):
        mask = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(1, 1, 9, 16, 8)
        self.assertEqual(cover_of(mask).flatten().tolist(), [0, 0, 2.5, 2.5, 6.5, 6.5])
        self.assertEqual(cover_of(mask[:, :, :1]).shape, (1, 1, 2, 1))

    def test_a_bank_knows_which_cells_the_subject_covers(self):
        bank = self.bank(9)
        clip = render(bank.scenes, 9)
        self.assertLess((bank.cover(slice(0, 6)) - cover_of(clip.mask)).abs().max().item(), 0.01)
        self.assertEqual(bank.cover(slice(1, 3), 2).shape, (2, 2, HEIGHT // 8, WIDTH // 8))


class Transformer(unittest.TestCase):
    def test_watching_changes_nothing(self):
        torch.manual_seed(0)
        shape = argparse.Namespace(heads=1, layers=2, time_width=16, size=[32, 48])
        net = train_transformer.build(shape, 4, 20)["transformer"]
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.1)
        given = torch.randn(2, 3, 4, 4, 6), torch.randn(2, tokenizer.LENGTH, 128), torch.tensor([10, 900])
        out, hidden = train_transformer.Watched(net, 1)(*given)
        self.assertTrue(torch.equal(out, net(*given, return_dict=False)[0]))
        self.assertEqual(hidden.shape, (2, 3 * 2 * 3, 64))

    def test_the_head_is_right_where_it_says_what_is_there(self):
        torch.manual_seed(0)
        head = train_transformer.Head(64)
        outline = torch.zeros(1, 2, 16, 24)
        outline[0, 1, 9:12, 17:20] = 1  # in the last token of the second frame, a square of three points
        labels = torch.tensor([[2, 1, 4]])
        read = torch.full((1, 12, sum(head.sizes)), -9.0)
        read[0, 11, [1 * 8 + 1, 1 * 8 + 2, 1 * 8 + 3, 17, 18, 19, 25, 26, 27]] = 9
        read[0, 11, [64 + 2, 64 + 8 + 1, 64 + 8 + 4 + 4]] = 9
        self.assertLess(head.loss(read, outline, labels).item(), 0.05)
        self.assertGreater(head.loss(read.roll(1, 1), outline, labels).item(), 5)
        self.assertGreater(head.loss(read, outline, labels.flip(1)).item(), 5)


class Images(unittest.TestCase):
    def test_texts_are_one_token_a_word(self):
        folder, rng = tempfile.mkdtemp(), random.Random(1)
        size = clip_tokenizer.write(folder)
        captions = clip_tokenizer.Captions(folder)
        self.assertEqual(len(captions.tokenizer), size)
        texts = [caption(sample(rng, "all"), rng, 0.2) for _ in range(500)]
        texts += [text for _ in range(300) for text in edits.instructions(*edits.edit(rng))]
        for row, text in zip(captions.ids(texts).tolist(), texts):
            words = text.replace(",", " ,").split()
            self.assertEqual(row[:len(words) + 2].count(size - 1), 1, text)
            self.assertEqual(row[len(words) + 1:], [size - 1] * (clip_tokenizer.LENGTH - len(words) - 1), text)
        # any other text comes back, letter by letter
        other = "zebras, 7 of them: \u00fc!"
        self.assertEqual(captions.tokenizer.decode(captions.ids([other])[0], skip_special_tokens=True).replace(" ", ""),
                         other.replace(" ", ""))

    def test_edits_change_one_attribute_and_keep_to_their_side(self):
        rng = random.Random(0)
        for split in ("train", "unseen"):
            for _ in range(200):
                before, after, attribute = edits.edit(rng, split)
                changed = [name for name in ATTRIBUTES if getattr(before, name) != getattr(after, name)]
                self.assertEqual((changed, before.seed), ([attribute], after.seed))
                self.assertEqual((held_out(*before.combination()), held_out(*after.combination())), (False, split == "unseen"))

    def test_a_caption_is_known_to_name_what_it_names(self):
        rng = random.Random(0)
        for _ in range(300):
            scene = sample(rng, "all")
            self.assertTrue(all(said(scene, caption(scene, rng)).values()))
            self.assertEqual(said(scene, caption(scene, rng, 1.0)), dict.fromkeys(ATTRIBUTES, False) | {"colour": True, "shape": True})

    def test_edges_are_one_pixel_wide_and_connected_ones_may_be_weak(self):
        step = torch.zeros(1, 3, 8, 10, dtype=torch.uint8)
        step[..., 5:] = 40  # a gradient of 160
        self.assertEqual(canny(step).sum().item(), 0)
        step[:, 1, 3, 5:] = 62  # of 204 in one row, in one channel
        found = canny(step)[0, 0]
        self.assertTrue((found.sum(1) == 255).all(), found)
        self.assertLessEqual(set(found.nonzero()[:, 1].tolist()), {4, 5})

    def test_a_still_of_the_video_autoencoder_is_encoded_alike(self):
        from diffusers import AutoencoderKLCogVideoX

        from train_image_vae import build, from_video

        torch.manual_seed(0)
        video = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 16), latent_channels=8, layers_per_block=1, norm_num_groups=8)
        vae = build((8, 8, 8, 16), 8, (32, 48))
        from_video(vae, video, (32, 48), "cpu")
        x, _ = images.pictures([sample(random.Random(5))], [1.0], (32, 48), "cpu")
        with torch.no_grad():
            whole, own = video.encode(x.unsqueeze(2)).latent_dist.mode()[0, :, 0], vae.encode(x).latent_dist.mode()[0]
        # eight channels of eight: the same up to an affine map
        rows = torch.cat([own.flatten(1), torch.ones(1, own[0].numel())]).T
        left = whole.flatten(1).T - rows @ torch.linalg.lstsq(rows, whole.flatten(1).T).solution
        self.assertLess(left.abs().max().item(), 0.01 * whole.std().item())

    def test_balanced_latents_have_mean_zero_and_one_deviation_and_the_same_pictures(self):
        from train_image_vae import balance, build

        torch.manual_seed(0)
        vae = build((8, 8, 8, 16), 4, (32, 48)).eval()
        x, _ = images.pictures([sample(random.Random(5))], [1.0], (32, 48), "cpu")
        with torch.no_grad():
            before = vae.decode(vae.encode(x).latent_dist.mode()).sample
            balance(vae, 32, (32, 48), "cpu")
            after = vae.decode(vae.encode(x).latent_dist.mode()).sample
            self.assertLess((before - after).abs().max().item(), 1e-4)
            again = balance(vae, 32, (32, 48), "cpu")
        self.assertLess(max(abs(value - 1) for value in again), 0.05)

    def test_an_instruct_unet_and_a_controlnet_begin_as_if_they_were_not_there(self):
        from train_instruct import begin

        torch.manual_seed(0)
        unet = images.unet((32, 48))
        for p in unet.parameters():
            torch.nn.init.normal_(p, std=0.1)
        z, t, text = torch.randn(2, 4, 4, 6), torch.tensor([10, 900]), torch.randn(2, clip_tokenizer.LENGTH, images.TEXT)
        with torch.no_grad():
            plain = unet(z, t, text).sample
            instruct = begin(unet, (32, 48))(torch.cat([z, torch.randn_like(z)], 1), t, text).sample
            down, mid = images.controlnet(unet)(z, t, text, torch.rand(2, 3, 32, 48), return_dict=False)
            controlled = unet(z, t, text, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        self.assertLess((plain - instruct).abs().max().item(), 1e-4)
        self.assertLess((plain - controlled).abs().max().item(), 1e-5)

    def test_a_video_unet_begins_as_the_image_model_frame_by_frame(self):
        import videos

        torch.manual_seed(0)
        image = images.unet((32, 48))
        for p in image.parameters():
            torch.nn.init.normal_(p, std=0.1)
        for name, p in image.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):  # then narrower heads lose nothing
                for head in p.data.split(16):
                    head[8:] = 0
        net = videos.unet((32, 48))
        videos.begin(net, image)
        z, t, text = torch.randn(2, 4, 3, 4, 6), torch.tensor([10, 900]), torch.randn(2, clip_tokenizer.LENGTH, images.TEXT)
        with torch.no_grad():
            made = net(z, t, text).sample
            for frame in range(3):
                self.assertLess((made[:, :, frame] - image(z[:, :, frame], t, text).sample).abs().max().item(), 1e-4)
            for p in net.parameters():
                torch.nn.init.normal_(p, std=0.1)
            made = net(z, t, text).sample
            videos.hasten(net)
            self.assertLess((made - net(z, t, text).sample).abs().max().item(), 1e-4)

    def test_a_streaming_unet_begins_as_the_plain_one_and_mergers_see_no_order(self):
        import streaming
        import videos

        torch.manual_seed(0)
        base = videos.unet((32, 48))
        for p in base.parameters():
            torch.nn.init.normal_(p, std=0.1)
        net, cam = streaming.streaming_unet(base, clip_tokenizer.LENGTH, 4), streaming.StreamingCAM(base, (4, 4, 8, 8), 2)
        z, t, tokens = torch.randn(2, 4, 5, 4, 6), torch.tensor([10, 900]), torch.randn(2, clip_tokenizer.LENGTH + 4, images.TEXT)
        text = tokens[:, :clip_tokenizer.LENGTH]
        with torch.no_grad():
            memory = cam(z[:, :, :2], t, text, torch.rand(2, 2, 3, 32, 48))
            made = streaming.predict(net, z, t, tokens, memory)
            self.assertLess((made - base(z, t, text).sample).abs().max().item(), 1e-4)
            merger = net.cross_attention_merger_mid_block
            torch.nn.init.normal_(merger.temporal_transformer.proj_out.weight, std=0.1)
            x, seen = torch.randn(10, 48, 2, 3), torch.randn(4, 48, 2, 3)
            one, turned = merger(x, seen, 5, 2), merger(x, seen[[1, 0, 3, 2]], 5, 2)
            self.assertLess((one - turned).abs().max().item(), 1e-5)
            other = seen.clone()
            other[..., 1, 2] += 1
            changed = (merger(x, other, 5, 2) - one).abs().amax((0, 1)) > 0
            self.assertEqual(changed.nonzero().tolist(), [[1, 2]])

    def test_an_anchor_of_the_encoders_size_is_only_normalised(self):
        from streaming import MEAN, STD, prepared

        x = torch.rand(1, 3, 8, 8) * 2 - 1
        wanted = ((x + 1) / 2 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        self.assertLess((prepared(x, 8) - wanted).abs().max().item(), 1e-5)
        flat = prepared(torch.full((1, 3, 40, 9), 0.5), 8)
        self.assertLess((flat - flat[..., :1, :1]).abs().max().item(), 1e-5)

    def test_measures_of_control(self):
        from evaluate_image import boxes_iou, followed

        one, other = torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([[0.6, 0.5, 0.2, 0.2]])
        self.assertAlmostEqual(boxes_iou(one, one).item(), 1.0, places=5)
        self.assertAlmostEqual(boxes_iou(one, other).item(), 1 / 3, places=5)
        edge, beside = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
        edge[..., 4, :], beside[..., 5, :3] = 255, 255
        recall, precision = followed(beside, edge)
        self.assertAlmostEqual(recall, 4 / 9)
        self.assertEqual(precision, 1.0)


class Bars(unittest.TestCase):
    PROGRAM = """#!/usr/bin/env python3
import json, os, sys
words, here = sys.argv[1:], os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "calls"), "a") as log:
    log.write(" ".join(words[:1]) + "\\n")
if words[0] == "batch":
    root = words[words.index("--output-root") + 1]
    for line in sys.stdin:
        job = json.loads(line)
        path = os.path.join(root, job["id"] + ".mp4")
        if not os.path.exists(path):
            with open(path, "w") as file:
                json.dump(job, file)
else:
    videos = []
    for path in [word for word in words if word.endswith(".mp4")]:
        with open(path) as file:
            job = json.load(file)
        answers = {"judge_" + name: 1.0 for name in ("colour", "shape", "place", "time")}
        videos.append({"file": path, "metrics": answers | {"judge_motion": job["seed"] % 2, "present": 0.5}})
    print(json.dumps({"videos": videos}))
"""

    def run_bars(self, folder: str, *words: str) -> str:
        program = os.path.join(folder, "vidgen")
        with open(program, "w") as file:
            file.write(self.PROGRAM)
        os.chmod(program, 0o755)
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bars.py")
        words = [sys.executable, script, "--vidgen", program, "--out", os.path.join(folder, "out"), *words]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def test_seen_and_unseen_apart_and_nothing_twice(self):
        folder = tempfile.mkdtemp()
        out = self.run_bars(folder, "--captions", "6", "--steps", "4", "--guidance", "3")
        # every second caption is unseen, and this program gets the motion right in those alone
        rows = [line.split() for line in out.splitlines()]
        self.assertEqual(rows[1], ["4", "3.0", "all", "100.0", "100.0", "50.0", "100.0", "100.0", "50.0"])
        self.assertEqual(rows[2], ["seen", "100.0", "100.0", "0.0", "100.0", "100.0", "50.0"])
        self.assertEqual(rows[3], ["unseen", "100.0", "100.0", "100.0", "100.0", "100.0", "50.0"])
        self.assertIn("misses by 45.0 points", out)  # of the subject's presence
        job = json.loads(pathlib.Path(folder, "out", "toyland", "4-steps-3-guidance", "003.mp4").read_text())
        self.assertEqual((job["steps"], job["guidance_scale"], job["seed"], job["command"]), (4, 3.0, 3, "generate"))
        calls = lambda: pathlib.Path(folder, "calls").read_text().split()
        self.assertEqual(calls(), ["batch", "eval"])
        self.assertEqual(self.run_bars(folder, "--captions", "6", "--steps", "4", "--guidance", "3"), out)
        self.assertEqual(calls(), ["batch", "eval", "batch"])  # judged once


class Autoencoder(unittest.TestCase):
    def test_balancing_the_channels_changes_no_picture(self):
        from diffusers import AutoencoderKLCogVideoX

        from train_vae import balance

        torch.manual_seed(0)
        vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4).eval()
        x, std = torch.rand(1, 3, 9, 32, 48) * 2 - 1, torch.tensor([0.5, 1.0, 2.0, 3.0])
        with torch.no_grad():
            first = vae.encode(x).latent_dist
            before = vae.decode(first.mean).sample
            balance(vae, std)
            second = vae.encode(x).latent_dist
            after = vae.decode(second.mean).sample
        self.assertLess((first.mean / std.view(1, -1, 1, 1, 1) - second.mean).abs().max().item(), 1e-4)
        self.assertLess((first.std / std.view(1, -1, 1, 1, 1) - second.std).abs().max().item(), 1e-4)
        self.assertLess((before - after).abs().max().item(), 1e-4)

    def test_an_anchor_costs_nothing_where_it_lies_and_draws_back(self):
        from diffusers import AutoencoderKLCogVideoX

        from train_vae import loss_of

        torch.manual_seed(0)
        vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4)
        x, weight = torch.rand(2, 3, 1, 32, 48) * 2 - 1, torch.ones(2, 1, 1, 32, 48)
        held, cover, labels = copy.deepcopy(vae), torch.ones(2, 1, 4, 6), torch.tensor([[1, 2], [3, 0]])

        def loss(anchor: float) -> float:
            torch.manual_seed(1)
            a = argparse.Namespace(anchor=anchor, square=2.0, kl=1e-4)
            return loss_of(vae, held, x, weight, cover, labels, torch.zeros(2, 1, 1, 1, 1), a, "cpu")[0].item()

        self.assertAlmostEqual(loss(1.0), loss(9.0), places=5)
        with torch.no_grad():
            vae.encoder.conv_out.conv.bias[:4] += 0.5  # of the means; a quarter of a squared half for every one
        self.assertAlmostEqual(loss(9.0) - loss(1.0), 8 * 0.25, places=1)


if __name__ == "__main__":
    unittest.main()
