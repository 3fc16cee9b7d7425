//! `eval`: what is said of videos of this program, of other videos, of sets, of broken files.

use crate::cli::program::Program;
use crate::common::{clip, golden, tiny};
use candle_core::Tensor;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write as _;

/// A directory with a Toyland video of two prompts, `story.gif`, and one of another seed, `other.gif`.
fn with_videos() -> Program {
    let program = Program::new();
    let prompts =
        ["-p", "a red ball rests in the snow at night", "-p", "a red ball rests in the desert on a sunny day"];
    let how = ["--steps", "1", "--size", "48x32", "--transition-windows", "0", "--quiet"];
    for (seed, name) in [("1", "story.gif"), ("2", "other.gif")] {
        program.run(&[&["multi-prompt", "--seed", seed, "-o", name][..], &prompts, &how].concat()).success();
    }
    program
}

/// A y4m file of grey frames, one level each.
fn grey(program: &Program, name: &str, levels: &[u8]) {
    let mut bytes = b"YUV4MPEG2 W32 H32 F8:1 Ip A1:1 C420jpeg\n".to_vec();
    for &level in levels {
        bytes.extend(b"FRAME\n");
        bytes.extend(std::iter::repeat_n(level, 32 * 32));
        bytes.extend(std::iter::repeat_n(128, 2 * 16 * 16));
    }
    std::fs::write(program.path(name), bytes).unwrap();
}

#[track_caller]
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_video_is_measured_by_its_record() {
    let program = with_videos();
    let text = program.run(&["eval", "story.gif"]).success().stdout();
    assert!(text.starts_with("video") && text.contains("flicker %") && text.contains("worst seam"), "{text}");
    assert!(
        text.contains("no cscv: needs")
            && text.contains("no judge, timing, present")
            && text.contains("--judge toyland"),
        "{text}"
    );
    let got = json(&program.run(&["eval", "story.gif", "--judge", "toyland", "--json"]).success().stdout());
    let video = &got["videos"][0];
    assert_eq!((got["schema"].as_str(), got["cscv_by"].as_str()), (Some("vidgen.eval.v1"), Some("judge")));
    assert!(got["interpolator"].as_str().unwrap().contains("not AMT-S"));
    assert_eq!(video["frames"], 65); // two windows of 13 that share 9: 17 latent frames
    // the window of the second prompt begins at latent 4, that of the first ends at 13; between them the nearer one has
    // the frame, and of equals the first
    let spans: Vec<_> = video["scenes"].as_array().unwrap().iter().map(|scene| scene["frames"].clone()).collect();
    assert_eq!(spans, [serde_json::json!([0, 33]), serde_json::json!([33, 65])]);
    let place = &video["scenes"][1]["judge"]["place"];
    assert_eq!(place["asked"], "desert");
    assert!(place["probability"].as_f64().unwrap() > 0.0);
    for metric in ["cscv", "motion_smoothness", "flicker", "judge", "judge_time", "present"] {
        let value = video["metrics"][metric].as_f64().unwrap_or_else(|| panic!("no {metric}: {video}"));
        assert!((0.0..=1.0).contains(&value), "{metric} {value}");
        assert_eq!(got["mean"][metric], value);
    }
    assert!(video["metrics"]["seam"].as_f64().unwrap() > 0.0);
    assert!(video["absent"]["text_image"].as_str().unwrap().contains("--clip"));
    assert_eq!(video.get("per_frame"), None);
    let lists = json(&program.run(&["eval", "story.gif", "--per-frame", "--json"]).success().stdout());
    assert_eq!(lists["videos"][0]["per_frame"]["difference"].as_array().map(Vec::len), Some(64));
}

#[test]
fn fades_and_given_frames_belong_to_no_prompt() {
    let program = Program::new();
    let prompts = ["-p", "a red ball rests in the snow", "-p", "a red ball rests in the desert"];
    let how = ["--steps", "1", "--size", "48x32", "--quiet", "--frames", "21"];
    let fade = [&["multi-prompt", "--transition", "fade:4", "-o", "fade.gif"][..], &prompts, &how].concat();
    program.run(&fade).success();
    program.run(&[&["extend", "fade.gif", "a red ball rests at night", "-o", "on.gif"][..], &how].concat()).success();
    let spans = |name: &str| {
        let got = json(&program.run(&["eval", name, "--json"]).success().stdout())["videos"][0].clone();
        assert!(got["metrics"]["seam"].as_f64().is_some_and(f64::is_finite), "{got}");
        let frames = got["frames"].as_u64().unwrap();
        let spans = got["scenes"].as_array().unwrap().iter();
        let spans = spans.map(|scene| (scene["frames"][0].as_u64().unwrap(), scene["frames"][1].as_u64().unwrap()));
        (frames, spans.collect::<Vec<_>>())
    };
    let (frames, fade) = spans("fade.gif");
    assert_eq!((frames, fade.len(), fade[0].0, fade[1].0 - fade[0].1, fade[1].1), (21, 2, 0, 4, 21));
    let (frames, on) = spans("on.gif");
    assert_eq!(on, [(21, frames)]);
}

#[test]
fn clip_sees_frames_and_prompts() {
    let program = Program::new();
    clip::write_folder(&program.path("clip"));
    grey(&program, "a.y4m", &[20, 90, 160, 230]);
    let bare = json(&program.run(&["eval", "a.y4m", "--clip", "clip", "--json"]).success().stdout());
    assert!(bare["mean"]["cscv"].as_f64().unwrap() < 1.0);
    assert!(bare["videos"][0]["absent"]["text_image"].as_str().unwrap().contains("--prompt"));
    assert_eq!(bare["clip"]["name"], "clip");
    let prompts = ["-p", "a dark knight", "-p", "a bright sunflower"];
    let two =
        json(&program.run(&[&["eval", "a.y4m", "--clip", "clip", "--json"][..], &prompts].concat()).success().stdout());
    let scenes = two["videos"][0]["scenes"].as_array().unwrap().clone();
    assert_eq!((&scenes[0]["frames"], &scenes[1]["frames"]), (&serde_json::json!([0, 2]), &serde_json::json!([2, 4])));
    let fits: Vec<f64> = scenes.iter().map(|scene| scene["text_image"].as_f64().unwrap()).collect();
    let mean = two["mean"]["text_image"].as_f64().unwrap();
    assert!((mean - (fits[0] + fits[1]) / 2.0).abs() < 1e-9 && fits[0] != fits[1]);
    std::fs::write(program.path("p.txt"), "a dark knight\na bright sunflower\n").unwrap();
    let file = ["eval", "a.y4m", "--clip", "clip", "--json", "--prompt-file", "p.txt"];
    assert_eq!(json(&program.run(&file).success().stdout())["mean"], two["mean"]);
}

#[test]
fn a_clip_that_is_none_is_a_missing_model() {
    let program = Program::new();
    grey(&program, "a.y4m", &[1, 2]);
    let clip = |name: &str| program.run(&["eval", "a.y4m", "--clip", name, "--offline"]);
    clip("nowhere").error(3, &["nowhere", "no such folder"]);
    clip("org/name").error(3, &["org/name", "network is off"]);
    tiny::write_folder("tiny-2b", "tiny-2b", &program.path("model"));
    clip("model").error(3, &["config.json", "no such file"]);
    clip("model/text_encoder").error(3, &["model_type", "t5", "clip"]);
    clip::write_folder(&program.path("clip"));
    let weights = program.path("clip/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    clip("clip").error(3, &["model.safetensors"]);
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(program.path("clip/pytorch_model.bin"), "").unwrap();
    clip("clip").error(3, &["pytorch_model.bin", "pickled"]);
    clip::write_folder(&program.path("clip"));
    std::fs::remove_file(program.path("clip/vocab.json")).unwrap();
    clip("clip").error(3, &["tokenizer.json", "vocab.json"]);
}

#[test]
fn videos_are_compared_with_others() {
    let program = with_videos();
    let against = |words: &[&str]| {
        json(&program.run(&[&["eval"][..], words, &["--json"]].concat()).success().stdout())["videos"][0].clone()
    };
    let same = against(&["story.gif", "--against", "story.gif"]);
    assert_eq!(
        (&same["against"]["frames"]["identical"], &same["against"]["frames"]["psnr"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(same["against"]["difference"]["flicker"], 0.0);
    assert!((same["metrics"]["ssim"].as_f64().unwrap() - 1.0).abs() < 1e-9);
    let other = against(&["story.gif", "--against", "other.gif"]);
    assert!(other["metrics"]["psnr"].as_f64().unwrap() < 60.0, "{other}");
    let change =
        other["metrics"]["flicker"].as_f64().unwrap() - other["against"]["metrics"]["flicker"].as_f64().unwrap();
    assert!((other["against"]["difference"]["flicker"].as_f64().unwrap() - change).abs() < 1e-12 && change != 0.0);

    grey(&program, "small.y4m", &[0, 9, 9, 30]);
    let sizes = against(&["story.gif", "--against", "small.y4m"]);
    assert!(sizes["against"]["note"].as_str().unwrap().contains("48x32 and 32x32"), "{sizes}");
    // by name in a directory
    std::fs::create_dir(program.path("old")).unwrap();
    std::fs::copy(program.path("other.gif"), program.path("old/story.gif")).unwrap();
    let named = program.run(&["eval", "story.gif", "--against", "old"]).success().stdout();
    assert!(
        named.contains("against old/story.gif") && named.contains("difference") && named.contains("PSNR"),
        "{named}"
    );
    program.run(&["eval", "other.gif", "--against", "old"]).error(2, &["old/other.gif"]);
}

#[test]
fn sets_are_told_by_their_means_and_results_are_read_again() {
    let program = Program::new();
    for (name, levels) in [("a/1.y4m", [9, 9, 9, 9]), ("a/2.y4m", [9, 19, 9, 19]), ("b/1.y4m", [0, 80, 0, 80])] {
        std::fs::create_dir_all(program.path(name).parent().unwrap()).unwrap();
        grey(&program, name, &levels);
    }
    let table = program.run(&["eval", "a", "b/", "--means"]).success().stdout();
    let rows: Vec<Vec<&str>> = table.lines().take(3).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[1][0], rows[1][1], rows[2][0], rows[2][1]), ("a", "2", "b", "1"), "{table}");
    let results = program.run(&["eval", "a", "--json"]).success().stdout();
    std::fs::write(program.path("a.json"), &results).unwrap();
    let again = program.run(&["eval", "a.json", "b", "--means"]).success().stdout();
    assert_eq!(again, table);
    let both = json(&program.run(&["eval", "a", "b", "--json"]).success().stdout());
    assert_eq!(both["sets"][0]["mean"], json(&results)["mean"]);
    assert_eq!((both["sets"][1]["name"].as_str(), both["videos"].as_array().map(Vec::len)), (Some("b"), Some(3)));
    std::fs::write(program.path("b.json"), "{}").unwrap();
    program.run(&["eval", "b.json"]).error(2, &["b.json", "no results"]);
    program.run(&["eval", "a.json", "--against", "b"]).error(2, &["a.json", "--against"]);
}

#[test]
fn thresholds_have_an_exit_code() {
    let program = Program::new();
    grey(&program, "a.y4m", &[10, 20, 10, 20]);
    program.run(&["eval", "a.y4m", "--fail-below", "flicker=0.9", "--fail-above", "flicker=0.99"]).success();
    let done = program.run(&["eval", "a.y4m", "--fail-below", "flicker=0.99", "--fail-above", "motion-smoothness=0.5"]);
    assert!(done.stdout().contains("flicker %"), "the table comes all the same");
    done.error(7, &["flicker is 0.9", "below 0.99", "motion_smoothness", "above 0.5"]);
    program.run(&["eval", "a.y4m", "--fail-above", "seam=2"]).error(7, &["seam could not be computed"]);
    for (flag, words) in [
        ("cscv=0.8", &["cscv", "--clip or --judge"][..]),
        ("judge=0.8", &["--judge toyland"]),
        ("psnr=30", &["--against"]),
        ("fid=3", &["fid", "cscv"]),
        ("flicker", &["METRIC=X"]),
        ("flicker=nan", &["not a number"]),
    ] {
        program.run(&["eval", "a.y4m", "--fail-below", flag]).error(2, words);
    }
}

#[test]
fn broken_videos_do_not_keep_the_others_from_being_measured() {
    let program = Program::new();
    grey(&program, "good.y4m", &[10, 20, 30]);
    std::fs::write(program.path("broken.mp4"), "no video").unwrap();
    std::fs::write(program.path("empty.gif"), "").unwrap();
    program.run(&["eval", "broken.mp4"]).error(2, &["broken.mp4"]);
    program.run(&["eval", "none.mp4"]).error(2, &["none.mp4"]);
    let done = program.run(&["eval", "broken.mp4", "good.y4m", "empty.gif", "none.mp4"]);
    assert!(done.stdout().contains("good.y4m"), "{}", done.stdout());
    assert!(done.stderr().contains("warning: ") && done.stderr().contains("empty.gif is empty"), "{}", done.stderr());
    done.error(2, &["3 of 4 videos", "broken.mp4"]);
    let done = program.run(&["eval", "good.y4m", "none.mp4", "--json"]);
    let got = json(&done.stdout());
    assert_eq!((got["videos"].as_array().map(Vec::len), &got["failed"][0]["file"]), (Some(1), &"none.mp4".into()));
    assert_eq!(done.code(), 2);
    // half a frame at the end
    let whole = std::fs::read(program.path("good.y4m")).unwrap();
    std::fs::write(program.path("cut.y4m"), &whole[..whole.len() - 100]).unwrap();
    program.run(&["eval", "cut.y4m"]).error(2, &["cut.y4m"]);
    std::fs::create_dir(program.path("nothing")).unwrap();
    program.run(&["eval", "nothing"]).error(2, &["nothing", "neither videos nor pictures"]);
}

#[test]
fn flags_without_effect_are_refused() {
    let program = Program::new();
    grey(&program, "a.y4m", &[10, 20, 30]);
    program.run(&["eval"]).error(2, &["<FILE>"]);
    program.run(&["eval", "a.y4m", "-p", "a ball"]).error(2, &["prompts have no effect", "--clip"]);
    program.run(&["eval", "a.y4m", "--per-frame"]).error(2, &["--per-frame", "--json"]);
    program.run(&["eval", "a.y4m", "--judge", "toiland"]).error(2, &["toiland", "toyland"]);
    program.run(&["eval", "a.y4m", "--device", "cuda:7"]).error(2, &["cuda"]);
    let help = program.run(&["eval", "--help"]).success().stdout();
    assert!(help.contains("Examples:") && help.contains("block matching") && help.contains("--fail-below"), "{help}");
}

#[test]
fn cuts_are_counted_and_frames_warped_along_a_flow() {
    let program = Program::new();
    let levels: Vec<u8> = (0..40).map(|t| if t < 20 { 40 } else { 200 }).collect();
    grey(&program, "cut.y4m", &levels);
    let got = json(&program.run(&["eval", "cut.y4m", "--flow", "builtin", "--json"]).success().stdout());
    let video = &got["videos"][0];
    assert_eq!((&video["metrics"]["scuts"], &video["metrics"]["flow_mean"]), (&1.0.into(), &0.0.into()), "{video}");
    assert!(video["metrics"]["warp_error"].as_f64().unwrap() > 100.0);
    assert_eq!(
        (&video["absent"]["mawe"], &video["absent"]["mawe_paper"]),
        (&"nothing moves".into(), &"nothing moves".into())
    );
    let flow = Tensor::ones((39, 2, 4, 4), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    for (name, pairs) in [("right", 39), ("short", 38)] {
        let flow = HashMap::from([("flow", flow.narrow(0, 0, pairs).unwrap())]);
        candle_core::safetensors::save(&flow, program.path(format!("{name}.safetensors"))).unwrap();
    }
    let text = program.run(&["eval", "cut.y4m", "--flow", "right.safetensors"]).success().stdout();
    assert!(text.contains("MAWE") && text.contains("the given flow, right.safetensors"), "{text}");
    program.run(&["eval", "cut.y4m", "--flow", "short.safetensors"]).error(2, &["of 39 frames", "the video has"]);
    program.run(&["eval", "cut.y4m", "--flow", "none.safetensors"]).error(2, &["--flow", "none.safetensors"]);
    program.run(&["eval", "cut.y4m", "--fail-above", "mawe=1"]).error(2, &["mawe", "--flow builtin"]);
}

/// A network's file of the weights of a golden.
fn network(program: &Program, name: &str) {
    let golden = golden(name);
    let weights = golden.into_iter().filter_map(|(name, x)| Some((name.strip_prefix("small.weights.")?.to_owned(), x)));
    let weights: HashMap<String, Tensor> = weights.collect();
    candle_core::safetensors::save(&weights, program.path(format!("{name}.safetensors"))).unwrap();
}

#[test]
fn networks_see_motion_and_sets() {
    let program = Program::new();
    for (folder, levels) in [("a", [10u8, 60]), ("b", [200, 90])] {
        std::fs::create_dir(program.path(folder)).unwrap();
        for (name, first) in ["one", "two"].iter().zip(levels) {
            let levels: Vec<u8> = (0..16).map(|t| first + 2 * t).collect();
            grey(&program, &format!("{folder}/{name}.y4m"), &levels);
        }
    }
    grey(&program, "a/short.y4m", &[1, 2, 3]);
    network(&program, "i3d");
    network(&program, "rife");
    let both = ["eval", "a", "b", "--fvd", "a", "--i3d", "i3d.safetensors", "--rife", "rife.safetensors"];
    let done = program.run(&[&both[..], &["--json"]].concat()).success();
    assert!(done.stderr().contains("short.y4m: fewer than 16 frames: left out of FVD"), "{}", done.stderr());
    let got = json(&done.stdout());
    assert!(got["sets"][0]["fvd"].as_f64().unwrap() < 1e-6 && got["sets"][1]["fvd"].as_f64().unwrap() > 1.0, "{got}");
    assert_eq!((&got["sets"][0]["fvd_videos"], &got["fvd"]["frames"]), (&2.into(), &16.into()));
    assert!(got["interpolator"].as_str().unwrap().contains("RIFE"));
    assert!(got["mean"]["flow"].as_f64().is_some() && got["mean"]["flow_deviation"].as_f64().is_some());
    let text = program.run(&both).success().stdout();
    for part in ["FVD of b to a: ", "(2 and 2 videos", "flow px", "FVD by I3D", "flow by RIFE"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    program.run(&["eval", "a", "--fvd", "a"]).error(3, &["--fvd needs its network", "make metrics", "--i3d"]);
    let file = ["--i3d", "i3d.safetensors"];
    program.run(&[&["eval", "a", "--fvd", "a/one.y4m"][..], &file].concat()).error(2, &["give a directory of videos"]);
    program.run(&[&["eval", "a"][..], &file].concat()).error(2, &["--fvd"]);
    program.run(&["eval", "a", "--rife", "i3d.safetensors"]).error(3, &["i3d.safetensors", "block0"]);
}

#[test]
fn a_page_shows_strips_curves_and_the_table() {
    let program = with_videos();
    std::fs::rename(program.path("other.gif"), program.path("<b>&.gif")).unwrap();
    let words = ["eval", "story.gif", "<b>&.gif", "--judge", "toyland", "--report", "page.html"];
    let done = program.run(&words).success();
    assert!(done.stdout().contains("story.gif"));
    assert!(
        done.stdout().contains("CSCV, judge and present by the judge of Toyland, in the binary"),
        "{}",
        done.stdout()
    );
    let page = std::fs::read_to_string(program.path("page.html")).unwrap();
    assert_eq!(page.matches("<img ").count(), 16);
    assert!(page.matches("src=\"data:image/jpeg;base64,").count() == 16 && !page.contains("<script"));
    assert!(!page.contains("://"), "it needs no network");
    assert!(page.contains("<h2>&lt;b&gt;&amp;.gif</h2>") && !page.contains("<b>"));
    assert!(page.contains("a red ball rests in the desert on a sunny day") && page.contains("windows meet at frame"));
    for curve in ["change from frame to frame", "similarity of neighbours", "error of predicted frames"] {
        assert_eq!(page.matches(curve).count(), 4, "{curve}: a label and a title each");
    }
    program.run(&words).error(2, &["page.html exists", "--overwrite"]);
    program.run(&[&words[..], &["-y", "--quiet"]].concat()).success();
    program.run(&["eval", "story.gif", "--report", "page.pdf"]).error(2, &["page.pdf", ".html"]);
    program.run(&["eval", "story.gif", "--report", "none/page.html"]).error(2, &["none"]);
}

#[test]
fn what_reading_loses_is_said() {
    let program = Program::new();
    let mut bytes = b"YUV4MPEG2 W32 H32 F8:1 Ip A2:1 C420jpeg\n".to_vec();
    for _ in 0..2 {
        bytes.extend([&b"FRAME\n"[..], &[128; 32 * 32 + 2 * 16 * 16]].concat());
    }
    std::fs::write(program.path("wide.y4m"), bytes).unwrap();
    let told = program.run(&["eval", "wide.y4m"]).success().stderr();
    assert!(told.contains("wide.y4m") && told.contains("taken for square"), "{told}");
}

/// The benchmark of stories, on the smallest of them; a second run renders and measures nothing again.
#[test]
#[cfg(target_os = "linux")]
fn the_benchmark_renders_four_variants_and_goes_on_where_it_stopped() {
    let program = Program::new();
    let out = program.path("out");
    let bench = |steps: &str, variants: &str| {
        let mut command = std::process::Command::new("bash");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/multiprompt/run.sh"));
        command.env("VIDGEN", env!("CARGO_BIN_EXE_vidgen")).env("OUT", &out).env("HOME", program.path("home"));
        command.env("STORIES", "1").env("STEPS", steps).env("FLAGS", "--size 48x32").env("VARIANTS", variants);
        command.env("SET", "toyland").env("MODEL", "toyland").env("CLIP", "").env("SEED", "3");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, table, log) = bench("1", "ours isolated");
    assert_eq!(code, Some(0), "{table}\n{log}");
    let rows: Vec<&str> = table.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(rows[..4], ["set", "video", "ours", "isolated"], "{table}");
    assert!(table.contains("CSCV %") && table.contains("seam") && table.contains("judge %"), "{table}");
    let videos =
        |variant: &str| std::fs::read_dir(out.join(variant)).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (ours, isolated): (Vec<_>, Vec<_>) = (videos("ours"), videos("isolated"));
    let frames = |path: &std::path::Path| {
        let path = path.to_str().unwrap();
        json(&program.run(&["inspect", path, "--json"]).success().stdout())["settings"]["frames"].clone()
    };
    assert_eq!((ours.len(), isolated.len(), frames(&ours[0])), (1, 1, frames(&isolated[0])));
    let written = |path: &std::path::Path| std::fs::metadata(path).unwrap().modified().unwrap();
    let before = (written(&ours[0]), written(&out.join("ours.json")));
    let (code, again, log) = bench("1", "ours no-sharing no-blending isolated");
    assert_eq!(code, Some(0), "{again}\n{log}");
    assert!(again.contains("no-sharing") && again.contains("no-blending"), "{again}");
    assert_eq!((written(&ours[0]), written(&out.join("ours.json"))), before);
    let (code, _, log) = bench("2", "ours");
    assert!(code == Some(2) && log.contains("other settings"), "{log}");
}

#[test]
fn the_story_sets_are_whole() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/multiprompt");
    for (set, kinds, of_kind) in [("storyshift", 10, 13), ("toyland", 4, 16)] {
        let mut problems = String::new();
        let folders: Vec<_> = std::fs::read_dir(root.join(set)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(folders.len(), kinds, "{set}");
        for folder in folders {
            let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(files.len(), of_kind, "{}", folder.display());
            for file in files {
                let text = std::fs::read_to_string(&file).unwrap();
                let prompts: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
                // one sentence in which few words differ: most of the shortest prompt stands in all others
                let shared = |other: &Vec<&str>| prompts[0].iter().filter(|word| other.contains(word)).count();
                let least = prompts.iter().map(shared).min().unwrap_or(0);
                if !(2..=5).contains(&prompts.len()) || least * 2 < prompts[0].len() {
                    let _ = writeln!(problems, "{}: {} prompts, {least} shared words", file.display(), prompts.len());
                }
            }
        }
        assert!(problems.is_empty(), "{problems}");
    }
}
