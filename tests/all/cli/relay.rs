//! Scenes that share a text, each heard in its own time: against a plain form around diffusers' modules (goldens:
//! `tests/reference/relay.py`), and the laws.

use crate::cli::parity::{read, write_noise};
use crate::cli::program::{Done, Program};
use crate::common::{assert_close, golden, tiny};
use candle_core::Tensor;
use serde_json::Value;

const SMALL: [&str; 10] = ["--steps", "2", "--size", "48x32", "--text-cache", "off", "--seed", "7", "--frames", "33"];

fn story(program: &Program, lines: &[&str]) {
    std::fs::write(program.path("story.txt"), lines.join("\n")).unwrap();
}

/// Toyland's latents of a story, or of a prompt by `generate`.
fn toyland(program: &Program, words: &[&str]) -> Tensor {
    let out = ["--save-latents", "latents.safetensors", "-y", "-o", "out/"];
    program.run(&[words, &SMALL, &out].concat()).success();
    read(&program.path("latents.safetensors"), "latents")
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn relay_equals_its_plain_form() {
    let golden = golden("pipeline/relay");
    let (first, second) = ("a red ball", "a blue ball");
    for (name, scheduler, lines, flags) in [
        ("2b-two", "ddim", [format!("[0f-5f] {first}"), format!("[5f-9f] {second}")], &["--transition", "relay"][..]),
        (
            "5b-overlap",
            "dpm",
            [format!("[0f-9f] {first}"), format!("[5f-9f] {second}")],
            &["--attn-proc", "relay:inner=0.5,tail=0,epsilon=0.1"],
        ),
        (
            "2b-gap",
            "ddim",
            [format!("[0f-1f] {first}"), "[5f-9f] a box".to_owned()],
            &["--style", "red", "--attn-proc", "relay:tail=0.5"],
        ),
        (
            "1.5-patches",
            "dpm",
            [format!("[0f-9f] {first}"), format!("[9f-17f] {second}")],
            &["--transition", "relay", "--attn-proc", "relay:tail=1"],
        ),
        (
            "2b-windows",
            "ddim",
            [format!("[0f-9f] {first}"), format!("[9f-17f] {second}")],
            &["--transition", "relay", "--overlap", "1"],
        ),
        (
            "5b-shared",
            "dpm",
            [format!("[0f-9f] {first}"), format!("[9f-17f] {second}")],
            &["--transition", "relay", "--overlap", "1", "--attn-proc", "kv-share:layers=1-2,steps=1-2"],
        ),
    ] {
        let program = Program::new();
        let kind = format!("tiny-{}", name.split('-').next().unwrap());
        tiny::write_folder(&kind, &kind, &program.path("model"));
        let want = &golden[name];
        let mut shape: [usize; 5] = want.dims().try_into().unwrap();
        shape[1] += usize::from(kind == "tiny-1.5"); // padding
        write_noise(&program.path("noise.safetensors"), &shape);
        story(&program, &lines.iter().map(String::as_str).collect::<Vec<_>>());
        let fixed =
            ["--model", "model", "--steps", "4", "--guidance-scale", "6", "--size", "48x32", "--text-cache", "off"];
        let how = ["--scheduler", scheduler, "--init-noise", "noise.safetensors", "--uncond", "zeros"];
        let out = ["--save-latents", "latents.safetensors", "-y", "-o", "frames/"];
        let run = |more: &[&str]| {
            program.run(&[&["multi-prompt", "story.txt"][..], &fixed, &how, &out, flags, more].concat()).success();
            read(&program.path("latents.safetensors"), "latents")
        };
        assert_close(name, &run(&[]), want, 1e-4);
    }
    // the penalties themselves
    for (name, numbers, scene) in [
        ("default", (1.0, 2.0, 0.001), (3, 9)),
        ("authors", (0.5, 0.0, 0.1), (0, 13)),
        ("one-frame", (1.0, 2.0, 0.001), (4, 5)),
        ("wide", (0.25, 3.5, 0.02), (2, 20)),
    ] {
        let (inner, tail, epsilon) = numbers;
        let profile = vidgen::processors::Profile { inner, tail, epsilon };
        let want =
            golden[&format!("penalty/{name}")].to_dtype(candle_core::DType::F64).unwrap().to_vec1::<f64>().unwrap();
        for (frame, want) in want.into_iter().enumerate() {
            let got = profile.penalty(scene, frame as f64);
            assert!((got - want).abs() <= 1e-9 * want.max(1.0), "{name} {frame}: {got} not {want}");
        }
    }
}

#[test]
fn one_scene_is_the_run_of_generate_and_full_weight_is_one_long_prompt() {
    let program = Program::new();
    let prompt = "a red ball rests in the snow";
    story(&program, &[prompt]);
    let one = toyland(&program, &["multi-prompt", "story.txt", "--transition", "relay"]);
    let generated = toyland(&program, &["generate", prompt]);
    assert_eq!(values(&one), values(&generated));

    let two = [prompt, "a blue ball rests in the desert"];
    story(&program, &two);
    let relay = ["multi-prompt", "story.txt", "--transition", "relay"];
    let long = toyland(&program, &["generate", &two.join(" ")]);
    let heard = |epsilon: &str| toyland(&program, &[&relay[..], &["--attn-proc", epsilon]].concat());
    assert_eq!(values(&heard("relay:epsilon=1")), values(&long));
    assert_eq!(values(&heard("none")), values(&long));
    assert_close("nearly", &heard("relay:epsilon=0.999999"), &long, 1e-4);
    let routed = toyland(&program, &relay);
    assert!(crate::common::relative_l2(&routed, &long) > 1e-2);
    // what is said of the default is the default
    assert_eq!(values(&heard("relay:inner=1,tail=2,epsilon=0.001")), values(&routed));
    // a script says it for one scene
    let script = format!(
        "[[scene]]\nprompt = \"{}\"\n[[scene]]\nprompt = \"{}\"\ntransition = {{ kind = \"relay\" }}\n",
        two[0], two[1]
    );
    std::fs::write(program.path("story.toml"), script).unwrap();
    assert_eq!(values(&toyland(&program, &["multi-prompt", "story.toml"])), values(&routed));
}

#[test]
fn runs_are_repeated_and_shown() {
    let program = Program::new();
    story(&program, &["[0%-60%] a red ball rests in the snow", "[40%-100%] a red ball rests in the desert"]);
    let run = [&["multi-prompt", "story.txt", "-o", "a.gif", "--json"][..], &SMALL].concat();
    program.run(&run).success();
    let seen = program.run(&["inspect", "a.gif", "--json"]).success().stdout();
    let record: Value = serde_json::from_str(&seen).unwrap();
    let settings = &record["settings"];
    assert_eq!(settings["transition"], "relay");
    assert_eq!(settings["relay"]["texts"][0]["text"], "a red ball rests in the snow a red ball rests in the desert");
    assert_eq!(settings["relay"]["times"][1]["latent_frames"], serde_json::json!([4, 9]));
    assert!(settings["attn_proc"][0].as_str().unwrap().starts_with("relay:"), "{settings}");
    program.run(&["rerun", "a.gif", "--check"]).success();

    let maps = ["attn-map", "a.gif", "--text-cache", "off", "--layers", "5", "-o", "maps/"];
    program.run(&[&maps[..], &["--words", "snow", "--words", "desert", "--words", "red ball"]].concat()).success();
    let map = read(&program.path("maps/maps.safetensors"), "words/step-1/layer-5");
    let sum = |word: usize, frames: std::ops::Range<usize>| {
        let part = map.get(word).unwrap().narrow(0, frames.start, frames.len()).unwrap();
        part.sum_all().unwrap().to_scalar::<f32>().unwrap()
    };
    // the snow is of the latent frames 0 to 5, the desert of 4 to 8
    assert!(sum(0, 0..2) > 100.0 * sum(0, 7..9) && sum(1, 7..9) > 100.0 * sum(1, 0..2));
    assert!(sum(2, 0..2) > 0.0 && sum(2, 7..9) > 0.0, "the ball is of both");
}

#[test]
fn plans_say_who_listens_when() {
    let program = Program::new();
    story(&program, &["[0s-2s] a red ball", "[1s-4s] a blue ball", "[5s-6s] a green ball"]);
    let done = program.run(&["plan", "story.txt", "--json"]).success().stdout();
    let plan: Value = serde_json::from_str(&done).unwrap();
    assert_eq!((plan["frames"].as_u64(), plan["windows"][0]["text"].as_str()), (Some(48), Some("prompts 1, 2, 3")));
    let rows = plan["relay"].as_array().unwrap();
    let times: Vec<_> = rows.iter().map(|row| row["latent_frames"].to_string()).collect();
    assert_eq!(times, ["[0,5]", "[3,9]", "[11,13]"]);
    let weights: Vec<f64> =
        rows[0]["weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap()).collect();
    assert_eq!((weights.len(), weights[4]), (13, 1.0));
    assert!((weights[6] - 0.001).abs() < 1e-9);
    let table = program.run(&["plan", "story.txt"]).success().stdout();
    for line in ["|#####1.", "| .1######1.", "|         .1##"] {
        assert!(table.contains(line), "{line}\n{table}");
    }
    assert!(table.contains("listens") && table.contains("8-31"));
}

fn refused(lines: &[&str], flags: &[&str], words: &[&str]) {
    let program = Program::new();
    story(&program, lines);
    let done: Done = program.run(&[&["multi-prompt", "story.txt", "-o", "a.gif"][..], flags].concat());
    done.error(2, words);
}

#[test]
fn what_cannot_be_relayed_is_refused() {
    let two = ["a red ball rests in the snow", "a blue ball rests in the desert"];
    refused(&two, &["--attn-proc", "relay"], &["--attn-proc relay has no effect", "--transition relay"]);
    refused(&two, &["--transition", "relais"], &["did you mean relay?"]);
    refused(&two, &["--transition", "relay", "--attn-proc", "relay:tail=-1"], &["tail=-1 is not within"]);
    refused(&two, &["--transition", "relay", "--attn-proc", "relay:epsilon=0"], &["epsilon=0 is not within"]);
    refused(&two, &["--transition", "relay", "--subject", "ball"], &["--subject has no effect"]);
    let shared = ["--transition", "relay", "--attn-proc", "kv-share:layers=5", "--subject", "ball", "--frames", "97"];
    refused(&two, &shared, &["a subject is looked for in texts of one scene", "relay"]);
    refused(&two, &["--transition", "relay", "--overlap", "13", "--frames", "97"], &["overlap of 13"]);
    refused(&two, &["--transition", "relay", "--frames", "1"], &["scene 2", "less than one latent frame"]);
    refused(&two, &["--transition", "relay", "--model", "toyland-image"], &["one sequence", "--model"]);
    let spans = ["[0s-2s] a red ball", "[1s-3s] a blue ball"];
    refused(&spans, &["--transition", "blend"], &["transition blend", "overlap or leave gaps", "relay"]);
    refused(&spans, &["--duration", "2s"], &["scene 2: 1s-3s ends with frame 24 and the video has 16"]);
    refused(&["[0s-2s] a", "[0s-120%] b"], &[], &["story.txt:2", "120% is beyond the end"]);
    refused(&["[0s-2s] a", "[9f-3f] b"], &[], &["story.txt:2", "ends before it begins"]);
    // a scene whose words the model would not read is named
    let long = "a red ball rolls to the right in a green meadow on a sunny day";
    refused(&[long, long, long], &["--transition", "relay", "--frames", "49"], &["scene 3", "32 tokens", "shorter"]);

    let program = Program::new();
    story(&program, &two);
    let run = ["multi-prompt", "story.txt", "--transition", "relay", "-o", "a.gif"];
    program.run(&[&run[..], &SMALL].concat()).success();
    program.run(&["edit", "a.gif", "--swap", "red=>green", "-o", "b.gif"]).error(2, &["relay", "cannot be edited"]);
    program.run(&["generate", "a ball", "--attn-proc", "relay"]).error(2, &["--attn-proc relay", "multi-prompt"]);
    std::fs::write(program.path("s.toml"), "[[scene]]\nprompt = \"a\"\ntime = \"0s-2s\"\nframes = 3\n").unwrap();
    program.run(&["multi-prompt", "s.toml"]).error(2, &["s.toml:3", "time says how long"]);
    std::fs::write(program.path("s.toml"), "[[scene]]\nprompt = \"a\"\ntime = \"0s-2s\"\n[[scene]]\nprompt = \"b\"\n")
        .unwrap();
    program.run(&["multi-prompt", "s.toml"]).error(2, &["scene 2 has no time"]);
}
