//! Keys and values shared between windows: against the reference's loop of pairs around diffusers' modules (goldens:
//! `tests/reference/ditctrl.py`), and the laws.

use crate::cli::parity::{read, write_noise};
use crate::cli::program::{Done, Program};
use crate::common::{assert_close, golden, tiny};
use candle_core::Tensor;

const STORY: [&str; 3] = ["a red ball rolls", "a blue ball rolls", "a green box rests"];

/// A directory with a tiny model.
fn program(kind: &str) -> Program {
    let program = Program::new();
    tiny::write_folder(kind, kind, &program.path("model"));
    program
}

/// The latents of prompts with more flags.
fn latents(program: &Program, prompts: &[&str], flags: &[&str]) -> Tensor {
    run(program, prompts, flags).success();
    read(&program.path("latents.safetensors"), "latents")
}

fn run(program: &Program, prompts: &[&str], flags: &[&str]) -> Done {
    std::fs::write(program.path("story.txt"), prompts.join("\n")).unwrap();
    let fixed = ["--model", "model", "--steps", "4", "--guidance-scale", "6", "--size", "48x32", "--text-cache", "off"];
    let out = ["--save-latents", "latents.safetensors", "-y", "-o", "frames/"];
    program.run(&[&["multi-prompt", "story.txt"][..], &fixed, &out, flags].concat())
}

#[test]
fn sharing_equals_the_loop_of_pairs() {
    let golden = golden("pipeline/ditctrl");
    for (name, scheduler, prompts, overlap, transitions, spec) in [
        ("2b-two", "ddim", 2, "1", "0", "kv-share:layers=1-2,steps=1-2"),
        ("2b-three", "ddim", 2, "2", "1", "kv-share:layers=2,steps=0-2"),
        ("2b-three-paper", "ddim", 2, "2", "1", "kv-share:layers=0-1,steps=1,3"),
        ("2b-four", "dpm", 2, "2", "2", "kv-share:layers=0,2,steps=0,3"),
        ("2b-five", "dpm", 3, "1", "1", "kv-share:layers=1,steps=all"),
        ("2b-five-paper", "ddim", 3, "2", "1", "kv-share:layers=1,steps=0,2"),
        ("5b-two", "dpm", 2, "2", "0", "kv-share:steps=1"),
        ("5b-three", "ddim", 3, "1", "0", "kv-share:layers=0,steps=0-1"),
        ("5b-four-paper", "dpm", 2, "2", "2", "kv-share:layers=1-2,steps=1-3"),
        ("5b-five", "dpm", 3, "2", "1", "kv-share:layers=1-2,steps=1-2"),
    ] {
        let program = program(&format!("tiny-{}", &name[..2]));
        let want = &golden[name];
        write_noise(&program.path("noise.safetensors"), want.dims().try_into().unwrap());
        let blend = if name.ends_with("paper") { "paper" } else { "repo" };
        let windows = ["--overlap", overlap, "--transition-windows", transitions, "--blend", blend];
        let how = ["--scheduler", scheduler, "--attn-proc", spec, "--init-noise", "noise.safetensors"];
        let flags = [&windows[..], &how].concat();
        let got = latents(&program, &STORY[..prompts], &flags);
        assert_close(name, &got, want, 1e-5);
        let apart =
            latents(&program, &STORY[..prompts], &[&flags[..8], &how[4..], &["--transition", "blend"]].concat());
        let distance = crate::common::relative_l2(&apart, want);
        assert!(distance > 1e-3, "{name}: sharing makes no difference ({distance:.1e})");
    }
}

#[test]
fn masked_sharing_equals_the_loop_of_pairs_with_dense_masks() {
    const ALIKE: [&str; 3] = ["a red ball rolls", "a blue ball rolls", "a green ball rests"];
    const MOVED: [&str; 2] = ["a red ball rolls", "the very big red ball rolls"];
    let golden = golden("pipeline/ditctrl");
    for (name, scheduler, prompts, overlap, transitions, spec, subject, threshold) in [
        ("2b-moved-subject", "ddim", &MOVED[..], "1", "0", "kv-share:layers=1-2,steps=1-2", "red ball", "0.3"),
        ("2b-subject", "dpm", &ALIKE[..2], "2", "1", "kv-share:layers=0,2,steps=0,2-3", "ball", "0.3"),
        ("2b-subject-paper", "ddim", &ALIKE, "1", "0", "kv-share:layers=1-2,steps=0-1", "ball", "0.45"),
        ("5b-moved-subject", "dpm", &MOVED, "2", "0", "kv-share:steps=1,3", "ball", "0.3"),
        ("5b-subject", "ddim", &ALIKE, "2", "0", "kv-share:layers=1,steps=0-2", "ball", "0.3"),
    ] {
        let program = program(&format!("tiny-{}", &name[..2]));
        let want = &golden[name];
        write_noise(&program.path("noise.safetensors"), want.dims().try_into().unwrap());
        let blend = if name.ends_with("paper") { "paper" } else { "repo" };
        let windows = ["--overlap", overlap, "--transition-windows", transitions, "--blend", blend];
        let how = ["--scheduler", scheduler, "--attn-proc", spec, "--init-noise", "noise.safetensors"];
        let masks = ["--subject", subject, "--mask-threshold", threshold];
        let got = latents(&program, prompts, &[&windows[..], &how, &masks].concat());
        assert_close(name, &got, want, 1e-5);
        let whole = latents(&program, prompts, &[&windows[..], &how].concat());
        let distance = crate::common::relative_l2(&whole, want);
        assert!(distance > 1e-4, "{name}: masks make no difference ({distance:.1e})");
    }
}

/// A case file of DiTCtrl is the run that its flags are.
#[test]
fn cases_are_the_runs_that_they_describe() {
    let program = program("tiny-2b");
    let golden = golden("pipeline/ditctrl");
    let want = &golden["2b-moved-subject"];
    write_noise(&program.path("noise.safetensors"), want.dims().try_into().unwrap());
    // "red ball" by its pieces in either prompt
    let case = "args:
  seed: 3
  output_dir: outputs/moved
  sampling_fps: 16
  overlap_size: 1
  num_transition_blocks: 0
  adaln_mixin_names:
    - 'KVSharingMaskGuidedAdaLNMixin'
  start_step: 1
  end_step: 3
  start_layer: 1
  end_layer: 3
  thres: 0.3
  ref_token_idx: [1, 2]
  cur_token_idx: [8, 9]
  prompts:
  - \"a red ball rolls\"
  - the very big
    red ball rolls
";
    std::fs::write(program.path("moved.yaml"), case).unwrap();
    let fixed = ["--model", "model", "--steps", "4", "--guidance-scale", "6", "--size", "48x32", "--text-cache", "off"];
    let noise = ["--scheduler", "ddim", "--init-noise", "noise.safetensors", "--json"];
    let out = ["--save-latents", "latents.safetensors", "-y", "-o", "a.gif"];
    let run =
        |file: &str, flags: &[&str]| program.run(&[&["multi-prompt", file][..], &fixed, &noise, &out, flags].concat());
    let done = run("moved.yaml", &[]).success();
    assert!(done.stderr().contains("moved.yaml: not read, since flags say this here: output_dir"), "{}", done.stderr());
    assert_close("case", &read(&program.path("latents.safetensors"), "latents"), want, 1e-5);
    let result: serde_json::Value = serde_json::from_str(&done.stdout()).unwrap();
    let settings = &result["manifest"]["settings"];
    assert_eq!((&settings["fps"], &result["manifest"]["seed"]), (&"16".into(), &3.into()));
    assert_eq!(settings["subject"], serde_json::json!([["red ball"], ["red ball"]]));
    // a flag outweighs the file
    run("moved.yaml", &["--subject", "green"]).error(2, &["subject \"green\" is not in the prompt"]);

    std::fs::write(program.path("far.yaml"), case.replace("[8, 9]", "[8, 12]")).unwrap();
    run("far.yaml", &[])
        .error(2, &["there is no token 12 in the prompt \"the very big red ball rolls\", which has 11"]);
    std::fs::write(program.path("seed.yaml"), case.replace("seed: 3", "seed: three")).unwrap();
    run("seed.yaml", &[]).error(2, &["seed.yaml:2: seed: seed \"three\" is neither a number"]);
    std::fs::write(program.path("key.json"), "{\"0\": \"a red ball\",\n\"x\": 3}").unwrap();
    run("key.json", &[]).error(2, &["key.json: no scene in it"]);
    std::fs::write(program.path("key.toml"), "\nstep = 3\n[[scene]]\nprompt = \"a red ball\"\n").unwrap();
    run("key.toml", &[]).error(2, &["key.toml:2: unknown setting \"step\": did you mean steps?"]);
    std::fs::write(program.path("edit.yaml"), case.replace("seed: 3", "is_edit: True")).unwrap();
    run("edit.yaml", &[]).error(2, &["edit.yaml:2: this case is a word swap: use vidgen edit"]);
}

#[test]
fn sharing_that_never_acts_is_a_blend_bit_for_bit() {
    let program = program("tiny-5b");
    let flags = ["--seed", "3", "--transition-windows", "1"];
    let blend = latents(&program, &STORY, &[&flags[..], &["--transition", "blend"]].concat());
    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for spec in ["kv-share:steps=none", "kv-share:layers=none"] {
        let never = latents(&program, &STORY, &[&flags[..], &["--attn-proc", spec]].concat());
        assert_eq!(values(&never), values(&blend), "{spec}");
    }
}

/// Two windows with the same noise and the same text stay the same, whoever reads whom.
#[test]
fn equal_windows_are_as_if_nothing_were_shared() {
    let program = program("tiny-5b");
    let one = tiny::unit("ditctrl/equal", &[1, 3, 4, 4, 6]);
    let noise = Tensor::cat(&[&one, &one], 1).unwrap();
    let tensors = std::collections::HashMap::from([("noise".to_owned(), noise)]);
    candle_core::safetensors::save(&tensors, program.path("noise.safetensors")).unwrap();
    let prompts = [STORY[0], STORY[0]];
    let windows = ["--overlap", "0", "--transition-windows", "0", "--scheduler", "ddim"];
    let noise = ["--init-noise", "noise.safetensors"];
    let shared = latents(&program, &prompts, &[&windows[..], &noise, &["--attn-proc", "kv-share"]].concat());
    let plain = latents(&program, &prompts, &[&windows[..], &noise, &["--transition", "blend"]].concat());
    assert_close("equal windows", &shared, &plain, 1e-6);
}

/// A row that reads the keys of the window before attends to that window's words: those are scaled, wherever, or whether at
/// all, they stand in its own prompt.
#[test]
fn words_are_scaled_where_they_stand_among_the_keys_that_are_read() {
    let program = program("tiny-2b");
    // one step without overlap: the second half is what the second window made of the first one's keys. In the last layer,
    // so that scaling changes no keys
    let windows = ["--steps", "1", "--seed", "3", "--overlap", "0", "--transition-windows", "0", "--scheduler", "ddim"];
    let second = |word: &str| {
        let reweight = format!("reweight:words={word},layers=2");
        let how = ["--attn-proc", "kv-share:layers=2", "--attn-proc", &reweight];
        let latents =
            latents(&program, &["a red ball rolls", "the very big blue ball"], &[&windows[..], &how].concat());
        let half = latents.dim(1).unwrap() / 2;
        latents.narrow(1, half, half).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let plain = second("red:1");
    assert_ne!(second("red:-4"), plain, "the window before has the word");
    assert_eq!(second("blue:-4"), plain, "only the window's own prompt has the word, and its keys are not read");
    assert_ne!(second("ball:-4"), plain);
}

#[test]
fn what_cannot_act_is_refused() {
    let program = program("tiny-2b");
    for (flags, words) in [
        (&["--transition", "attention"][..], &["no recipe", "3 layers", "kv-share:layers=2,steps="][..]),
        (&["--transition", "blend", "--attn-proc", "kv-share"], &["kv-share has no effect", "attention transition"]),
        (&["--transition", "cut", "--attn-proc", "kv-share"], &["kv-share has no effect"]),
        (&["--subject", "ball"], &["--subject has no effect"]),
        (
            &["--attn-proc", "kv-share", "--mask-threshold", "0.2"],
            &["--mask-threshold has no effect without --subject"],
        ),
        (&["--attn-proc", "kv-share:layers=3"], &["there are 3 layers, 0-2"]),
        (&["--attn-proc", "kv-share:steps=4-9"], &["there are 4 steps, 0-3"]),
        (&["--attn-proc", "kv-share", "--attn-proc", "kv-share"], &["given twice"]),
        (&["--attn-proc", "kv-shar"], &["did you mean kv-share?"]),
        (&["--attn-proc", "window"], &["works on temporal attention; this model has joint"]),
        (&["--attn-proc", "attn-map:words=ball"], &["unknown attention processor 'attn-map'"]),
        (&["--attn-proc", "reweight:words=ball:2", "--attn-proc", "kv-share"], &["reweight comes after kv-share"]),
        (&["--attn-proc", "reweight:words=cat:2"], &["\"cat\" is not in the prompt", "nor in the other 1"]),
        (&["--attn-proc", "kv-share", "--subject", "red ball"], &["\"red ball\" is not in the prompt", STORY[1]]),
        (&["--attn-proc", "kv-share", "--subject", "ball", "--mask-threshold", "3"], &["is not within 0 and 1"]),
    ] {
        run(&program, &STORY[..2], flags).error(2, words);
    }
    let moved = ["a red ball rolls", "the very big red ball rolls"];
    let subject = ["--attn-proc", "kv-share", "--subject", "red ball"];
    run(&program, &moved, &subject).error(2, &["red ball is token", "--transition-windows 0"]);
    run(&program, &moved, &[&subject[..], &["--transition-windows", "0"]].concat()).success();
    let generate = ["generate", "a ball", "--model", "model", "-o", "a/"];
    program
        .run(&[&generate[..], &["--attn-proc", "kv-share"]].concat())
        .error(2, &["kv-share has no effect on a single"]);
    program.run(&[&generate[..], &["--subject", "ball"]].concat()).error(2, &["--subject has no effect on a single"]);
}
