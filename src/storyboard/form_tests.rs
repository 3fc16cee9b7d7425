//! The forms of other programs, and the syntaxes beside TOML: what they become, and how hostile files are refused.

use super::node::Syntax;
use super::scenes::MOST_SCENES;
use super::tests::{message, parse, prompts};
use super::*;

pub const SCRIPT_JSON: &str = r#"{
  "schema": "vidgen.scene.v1", "seed": 18446744073709551615,
  "guidance_scale": 6.5, "size": "144x96",
  "defaults": {"duration": "6s", "transition": {"kind": "fade", "frames": 4}},
  "scene": [
    {"prompt": "a red ball", "subject": ["red ball"]},
    {
      "prompt": "a blue box \ud83d\ude00",
      "transition": {"kind": "blend", "windows": 1}, "frames": 49
    },
    {"prompt": "a star", "duration": 1.5}
  ]
}
"#;

pub const CASE: &str = "args:
  seed: 42
  overlap_size: 6
  num_transition_blocks: 1 # one or two
  output_dir: outputs/ball
  fp16: True
  layer_idx: null
  adaln_mixin_names:
    - 'KVSharingMaskGuidedAdaLNMixin'
  ref_token_idx: [1, 2]
  cur_token_idx: [1, 2]
  thres: 0.25
  prompts:
  - \"a red ball rests, in snow\"
  - a red ball
    rolls in the sand
  - 'a red ball''s end'
";

pub const CHAIN: &str = r#"schema = "mold.chain.v1"
[chain]
model = "ltx-2-19b-distilled:fp8"
width = 144
height = 96
fps = 8
seed = 7
guidance = 3.0
motion_tail_frames = 17
[[stage]]
prompt = "a red ball"
frames = 49
[[stage]]
prompt = "a blue box"
transition = "fade"
fade_frames = 4
[[stage]]
prompt = "a star"
"#;

pub const TIMES: &str =
    "# by time\n[00:00-00:06] a red ball\r\n[00:06 - 00:07.5] a blue box\n\n[0:07,5\u{2013}1:00:00] [a] star\n";

fn yaml(text: &str) -> Result<Storyboard> {
    parse("f.yaml", text.as_bytes(), Syntax::Yaml)
}

fn json(text: &str) -> Result<Storyboard> {
    parse("f.json", text.as_bytes(), Syntax::Json)
}

fn lines(text: &str) -> Result<Storyboard> {
    parse("f.txt", text.as_bytes(), Syntax::Lines)
}

fn toml_of(text: &str) -> toml::Table {
    toml::from_str(text).unwrap()
}

/// A case with more lines among its arguments.
fn case(more: &str) -> Result<Storyboard> {
    yaml(&format!("args:\n{more}  prompts: [a red ball, a blue ball]\n"))
}

fn settings(storyboard: Storyboard) -> toml::Table {
    storyboard.settings
}

#[test]
fn json_scripts_have_the_keys_of_toml() {
    for text in [SCRIPT_JSON.to_owned(), format!("\u{feff}{}", SCRIPT_JSON.replace('\n', "\r\n"))] {
        let storyboard = json(&text).unwrap();
        assert_eq!(prompts(&storyboard), ["a red ball", "a blue box \u{1f600}", "a star"]);
        let lengths: Vec<_> = storyboard.scenes.iter().map(|scene| scene.length.unwrap()).collect();
        assert_eq!(lengths, [Length::Seconds(6.0), Length::Frames(49), Length::Seconds(1.5)]);
        let blend = TransitionInto { kind: Some(Transition::Blend), windows: Some(1), overlap: None };
        assert_eq!(storyboard.scenes[1].transition, blend);
        assert_eq!(storyboard.scenes[0].subject, ["red ball"]);
        let settings =
            "seed = \"18446744073709551615\"\nguidance_scale = 6.5\nsize = \"144x96\"\ntransition = \"fade:4\"";
        assert_eq!(storyboard.settings, toml_of(settings));
        assert_eq!(storyboard.places["guidance_scale"], "f.json:3");
        assert_eq!(storyboard.places["transition"], "f.json:4");
    }
    let same = yaml("seed: 3\nscene:\n- prompt: a red ball\n- {prompt: a blue box, transition: cut, duration: 2}\n");
    let same = same.unwrap();
    assert_eq!(same.settings, toml_of("seed = 3"));
    assert_eq!(same.scenes[1].transition.kind, Some(Transition::Cut));
    assert_eq!(same.scenes[1].length, Some(Length::Seconds(2.0)));
}

#[test]
fn bad_json_names_its_line() {
    for (text, words) in [
        ("", "1: the file is empty"),
        ("{0: \"a ball\"}", "1: a key begins without a double quotation mark"),
        ("{\n// two\n\"0\": \"a\"}", "2: a key begins without a double quotation mark"),
        ("{\n\"scene\": [\n", "3: EOF while parsing a list"),
        ("{\"scene\": [{\"prompt\": \"a\"}]}\nx", "2: trailing characters"),
        ("{\"a\": 1,\n\"a\": 2}", "2: the key \"a\" stands twice"),
        ("{\"scene\": [\n{\"prompt\": 3}]}", "2: prompt is not a text in quotes"),
        ("{\"scene\": [\n{\"promt\": \"a\"}]}", "2: unknown key of [[scene]] \"promt\": did you mean prompt?"),
        ("{\"scene\": [\n{\"prompt\": \"a\", \"frames\":\n1e3\n}]}", "3: frames is not a whole number"),
        ("{\"scene\": [\n{\"prompt\": \"a\", \"frames\":\n99\n, \"duration\": 3}]}", "4: frames and duration"),
        ("{\"scene\":\n{\"prompt\": \"a\"}}", "2: scene is a list of tables"),
        ("{\"scene\": [{\"prompt\": \"a\"}], \"seed\": 1e999}", "1: number out of range"),
        ("{\"scene\": [{\"prompt\": \"a\"}],\n\"seed\": null}", "2: a key without a value"),
        ("{\"scene\": [{\"prompt\": \"a\", \"duration\": NaN}]}", "1: expected value"),
        ("{\"schema\":\n\"vidgen.scene.v9\"}", "2: schema \"vidgen.scene.v9\" is not supported"),
    ] {
        let message = message(json(text));
        assert!(message.starts_with(&format!("f.json:{words}")), "{text}\n{message}");
    }
    assert!(message(json("{}")).contains("no scene in it; write \"scene\": ["));
    assert!(message(json("{\"scenes\": [], \"fps\": 8}")).contains("no scene in it (it has scenes, fps); write"));
    let workflow = "{\"6\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": {\"text\": \"a\"}}}";
    assert!(message(json(workflow)).contains("workflow of ComfyUI"));
    assert_eq!(prompts(&yaml("- a ball\n- a box\n").unwrap()), ["a ball", "a box"]);
    for text in ["[]", "3", "\"a red ball\"", "null"] {
        assert!(message(json(text)).starts_with("f.json: not a table of keys"), "{text}");
    }
    assert!(message(yaml("# nothing\n")).starts_with("f.yaml: not a table of keys"));
}

#[test]
fn prompts_by_frame_last_until_the_next() {
    let storyboard = json("{\"24\": \"a blue box\", \"0\": \"a red ball\",\n\"100\": \"a star\"}").unwrap();
    assert_eq!(prompts(&storyboard), ["a red ball", "a blue box", "a star"]);
    let lengths: Vec<_> = storyboard.scenes.iter().map(|scene| scene.length).collect();
    assert_eq!(lengths, [Some(Length::Frames(24)), Some(Length::Frames(76)), None]);
    assert!(storyboard.settings.is_empty());
    assert_eq!(yaml("0: a red ball\n24: a blue box\n").unwrap().scenes[0].length, Some(Length::Frames(24)));
    for (text, words) in [
        ("{\n\"8\": \"a\"}", ":2: the first prompt begins at frame 8: give frame 0 a prompt"),
        ("{\"0\": \"a\",\n\"00\": \"b\"}", ":2: frame 0 has two prompts"),
        ("{\"0\": \"a\",\n\"0\": \"b\"}", ":2: the key \"0\" stands twice"),
        ("{\"0\": 3}", ":1: the prompt of a frame is not a text in quotes"),
        ("{\"0\": \" \"}", ":1: an empty prompt"),
        ("{\"0\": \"a\", \"1000001\": \"b\"}", ":1: frame 1000001 is beyond 1000000"),
        ("{\"0\": \"a\", \"99999999999999999999999999\": \"b\"}", ":1: frame 99999999999999999999 is beyond"),
        ("{\"0\": \"a\", \"-1\": \"b\"}", ":1: \"-1\" is no frame"),
        ("{\"0\": \"a\",\n\"12.5\": \"b\"}", ":2: \"12.5\" is no frame"),
        ("{\"0s\": \"a\", \"6s\": \"b\"}", ":1: \"0s\" is no frame"),
    ] {
        let message = message(json(text));
        assert!(message.starts_with(&format!("f.json{words}")), "{text}\n{message}");
    }
}

#[test]
fn prompts_by_time_last_as_long_as_they_say() {
    let storyboard = lines(TIMES).unwrap();
    assert_eq!(prompts(&storyboard), ["a red ball", "a blue box", "[a] star"]);
    let lengths: Vec<_> = storyboard.scenes.iter().map(|scene| scene.length.unwrap()).collect();
    assert_eq!(lengths, [Length::Seconds(6.0), Length::Seconds(1.5), Length::Seconds(3592.5)]);
    for (text, words) in [
        ("[00:00-00:06] a\nb", ":2: no time before this prompt"),
        ("a\n[00:00-00:06] b", ":2: a time before this prompt, and others have none"),
        ("[00:00] a", ":1: [00:00] is not a stretch of time: write [00:00-00:06]"),
        ("[00:00-00:00] a", ":1: [00:00-00:00] ends before it begins"),
        ("[00:00-00:99] a", ":1: \"00:99\" is not a time"),
        ("[00:00-1:2:3:4] a", ":1: \"1:2:3:4\" is not a time"),
        ("[00:00-9999999:00] a", ":1: \"9999999:00\" is not a time"),
        ("[00:00-:] a", ":1: \":\" is not a time"),
        ("[00:00-00:06]", ":1: an empty prompt"),
    ] {
        let message = message(lines(text));
        assert!(message.starts_with(&format!("f.txt{words}")), "{text}\n{message}");
    }
    // times that overlap or leave gaps stay times
    let apart = lines("[00:01-00:06] a\n[5s - 7s] b").unwrap();
    let times: Vec<_> = apart.scenes.iter().map(|scene| (scene.length, scene.time.unwrap().to_string())).collect();
    assert_eq!(times, [(None, "1s-6s".to_owned()), (None, "5s-7s".to_owned())]);
    // brackets that hold no times are part of a prompt
    assert_eq!(prompts(&lines("[cinematic] a ball\n[3d] a box\n[24-7] a shop").unwrap())[2], "[24-7] a shop");
}

#[test]
fn one_text_may_hold_several_prompts() {
    let split = |texts: &[&str], separator: &str| {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Storyboard::from_prompts(&texts).unwrap().split(separator)
    };
    assert_eq!(prompts(&split(&["a; b;c ;", "d"], ";").unwrap()), ["a", "b", "c", "d"]);
    assert_eq!(prompts(&split(&["a || b"], "||").unwrap()), ["a", "b"]);
    assert!(message(split(&["a;;b"], ";")).contains("--split \";\": prompt 2: an empty prompt"));
    assert!(message(split(&["a"], "")).contains("--split: give what stands between prompts"));
    let many = "b;".repeat(MOST_SCENES * 3 / 4);
    assert!(message(split(&[&many, &many], ";")).contains("15000 scenes are more than the 10000"));
    for storyboard in [json(SCRIPT_JSON), lines(TIMES), yaml(CASE)] {
        assert!(message(storyboard.unwrap().split(";")).contains("--split is for prompts in plain text"));
    }
}

#[test]
fn ditctrl_cases_become_settings() {
    for text in [CASE.to_owned(), format!("\u{feff}{}", CASE.replace('\n', "\r\n"))] {
        let storyboard = yaml(&text).unwrap();
        let all = ["a red ball rests, in snow", "a red ball rolls in the sand", "a red ball's end"];
        assert_eq!(prompts(&storyboard), all);
        assert!(storyboard.scenes.iter().all(|scene| scene.subject_tokens == [1, 2] && scene.subject.is_empty()));
        let settings =
            "seed = 42\noverlap = 6\ntransition_windows = 1\ntransition = \"attention\"\nmask_threshold = 0.25";
        assert_eq!(storyboard.settings, toml_of(settings));
        assert_eq!(storyboard.places["overlap"], "f.yaml:3");
        assert_eq!(storyboard.warnings, ["f.yaml: not read, since flags say this here: output_dir, fp16"]);
    }
    for (more, wanted) in [
        ("", ""),
        ("  seed: 3\n  sampling_fps: 16\n  longer_mid_segment: 2\n", "seed = 3\nfps = 16\nhold = 2\n"),
        ("  sampling_num_frames: 13\n  start_layer: null\n", ""),
        ("  end_step: 20\n", "attn_proc = \"kv-share:layers=25-29,steps=2-19\"\n"),
        (
            "  start_step: 0\n  end_step: 50\n  start_layer: 3\n  end_layer: 4\n",
            "attn_proc = \"kv-share:layers=3-3,steps=0-49\"\n",
        ),
        ("  step_idx: [0, 5, 9]\n  start_step: 7\n  layer_idx: 3\n", "attn_proc = \"kv-share:layers=3,steps=0,5,9\"\n"),
        ("  adaln_mixin_names: KVSharingAdaLNMixin\n", ""),
    ] {
        let wanted = toml_of(&format!("{wanted}transition = \"attention\"\n"));
        assert_eq!(settings(case(more).unwrap()), wanted, "{more}");
    }
    let transition = |more: &str| settings(case(more).unwrap())["transition"].as_str().unwrap().to_owned();
    assert_eq!(transition("  adaln_mixin_names: [BaseAdaLNMixin]\n"), "blend");
    assert_eq!(transition("  is_run_isolated: True\n"), "cut");
    assert_eq!(transition("  is_run_isolated: false\n  is_edit: no\n"), "attention");

    // the defaults of its own configuration: the first token of either prompt
    let masked = "  adaln_mixin_names: [KVSharingMaskGuidedAdaLNMixin]\n";
    let tokens = |more: &str| {
        let scenes = case(&format!("{masked}{more}")).unwrap().scenes;
        scenes.into_iter().map(|scene| scene.subject_tokens).collect::<Vec<_>>()
    };
    assert_eq!(tokens(""), [[0], [0]]);
    assert_eq!(tokens("  ref_token_idx: [1, 2]\n  cur_token_idx: 3\n"), [vec![1, 2], vec![3]]);
    // without masks they mean nothing
    let idle = case("  thres: 0.3\n  ref_token_idx: [0]\n  reweight_scale: -5\n").unwrap();
    assert!(idle.scenes.iter().all(|scene| scene.subject_tokens.is_empty()));
    assert_eq!(idle.warnings, ["f.yaml: no effect with KVSharingAdaLNMixin: thres, ref_token_idx, reweight_scale"]);

    let long = yaml("args:\n  single_prompt_length: 5\n  prompts:\n    - \"a waterfall\"\n").unwrap();
    assert_eq!(prompts(&long), ["a waterfall"; 5]);
}

#[test]
fn bad_cases_name_their_line() {
    let edit = "args:\n  is_edit: True\n  prompts:\n  - a fluffy cat on a sill\n  - a fluffy big dog on a sill\n";
    for (text, words) in [
        (edit.to_owned(), ":2: this case is a word swap: use vidgen edit with --swap 'cat=>big dog'"),
        (
            "args:\n  reweight_scale: 0.5\n  adaln_mixin_names: [ReWeightAdaLNMixin]\n  prompts: [a]\n".to_owned(),
            ":3: this case weights a word anew: use vidgen edit with --reweight 'WORD:0.5'",
        ),
        (
            "args:\n  adaln_mixin_names: [VisualizeAdaLNMixin]\n".to_owned(),
            ":2: this case draws attention maps: use vidgen attn-map",
        ),
        (
            "args:\n  adaln_mixin_names:\n  - BaseAdaLNMixin\n  - KVSharingAdaLNMixin\n".to_owned(),
            ":2: adaln_mixin_names asks for a video with each of BaseAdaLNMixin, KVSharingAdaLNMixin: keep one",
        ),
        ("args:\n  adaln_mixin_names: []\n".to_owned(), ":2: adaln_mixin_names is empty"),
        (
            "args:\n  adaln_mixin_names: [BaseAdaLNMixim]\n".to_owned(),
            ":2: unknown name in adaln_mixin_names \"BaseAdaLNMixim\": did you mean BaseAdaLNMixin?",
        ),
        ("args:\n  seed: 3\n  prompt: [a]\n".to_owned(), ":3: unknown key of args \"prompt\": did you mean prompts?"),
        ("args:\n  prompts: [a]\ndata: 3\n".to_owned(), ":3: unknown key beside args \"data\""),
        ("args:\n  prompts: [a]\nmodel:\n  target: x\n".to_owned(), ":3: model is described here"),
        ("args: 3\n".to_owned(), ":1: args is not a table"),
        ("args:\n  seed: 3\n".to_owned(), ":2: no prompts in args"),
        ("args:\n  prompts: a\n".to_owned(), ":2: prompts is not a list"),
        ("args:\n  prompts: []\n".to_owned(), ":2: no prompt in prompts"),
        ("args:\n  prompts:\n  - a\n  - b: c\n".to_owned(), ":4: a prompt is not a text"),
        ("args:\n  prompts:\n  - a\n  - 1984\n".to_owned(), ":4: a prompt is not a text"),
        (
            "args:\n  prompts: [a, b]\n  single_prompt_length: 3\n".to_owned(),
            ":3: single_prompt_length is for one prompt",
        ),
        ("args:\n  prompts: [a]\n  single_prompt_length: 10001\n".to_owned(), ":3: 10001 scenes are more"),
        ("args:\n  prompts: [a]\n  sampling_num_frames: 9\n".to_owned(), ":3: sampling_num_frames 9: a window is"),
        ("args:\n  prompts: [a]\n  is_edit: 1\n".to_owned(), ":3: is_edit is neither true nor false"),
        ("args:\n  prompts: [a]\n  end_step: 2\n".to_owned(), ":2: start_step is 2, and what ends before 2 cannot"),
        ("args:\n  prompts: [a]\n  step_idx: [a]\n".to_owned(), ":3: step_idx is not a whole number"),
        ("args:\n  prompts: [a]\n  start_layer: -1\n".to_owned(), ":3: start_layer is not a whole number"),
        ("args:\n  prompts: [a]\n  seed: 1\n  seed: 2\n".to_owned(), ":4: the key \"seed\" stands twice"),
        (
            "args:\n  adaln_mixin_names: [KVSharingMaskGuidedAdaLNMixin]\n  thres: .nan\n  prompts: [a]\n".to_owned(),
            ":3: thres is not a number",
        ),
    ] {
        let message = message(yaml(&text));
        assert!(message.starts_with(&format!("f.yaml{words}")), "{text}\n{message}");
    }
    assert!(case("  step_idx: []\n").unwrap().settings["attn_proc"].as_str().unwrap().ends_with("steps=none"));
}

#[test]
fn mold_chains_become_scenes() {
    let storyboard = parse("f.toml", CHAIN.as_bytes(), Syntax::Toml).unwrap();
    assert_eq!(prompts(&storyboard), ["a red ball", "a blue box", "a star"]);
    let kinds: Vec<_> = storyboard.scenes.iter().map(|scene| scene.transition.kind).collect();
    assert_eq!(kinds, [None, Some(Transition::Fade(Some(4))), Some(Transition::Blend)]);
    assert_eq!(storyboard.scenes[0].length, Some(Length::Frames(49)));
    let settings = "width = 144\nheight = 96\nfps = 8\nseed = 7\nguidance_scale = 3.0\n";
    assert_eq!(storyboard.settings, toml_of(settings));
    assert_eq!(storyboard.warnings, ["f.toml: not read from [chain]: model, motion_tail_frames"]);
    let stage = "[[stage]]\nprompt = \"a\"\n";
    for (text, words) in [
        ("[chain]\nfps = 8\n".to_owned(), ": no stage in it"),
        ("schema = \"mold.chain.v2\"\nstage = []\n".to_owned(), ":1: schema \"mold.chain.v2\" with [[stage]]"),
        (
            format!("{stage}transition = \"smoth\"\n"),
            ":3: unknown transition of a stage \"smoth\": did you mean smooth?",
        ),
        (format!("{stage}fade_frames = 3\n"), ":3: fade_frames without transition = \"fade\""),
        (format!("{stage}source_image = \"a.png\"\n"), ":3: source_image of a stage cannot be followed"),
        (format!("{stage}prmpt = 3\n"), ":3: unknown key of [[stage]] \"prmpt\": did you mean prompt?"),
        (format!("{stage}[chain]\nwith = 3\n"), ":4: unknown key of [chain] \"with\": did you mean width?"),
        (format!("{stage}[other]\n"), ":3: unknown key of a chain script \"other\""),
        ("stage = 3\n".to_owned(), ":1: a stage is a table"),
        ("stage = [3]\n".to_owned(), ":1: a stage is not a table"),
        ("[[stage]]\nframes = 9\n".to_owned(), ":1: this stage has no prompt"),
    ] {
        let message = message(parse("f.toml", text.as_bytes(), Syntax::Toml));
        assert!(message.starts_with(&format!("f.toml{words}")), "{text}\n{message}");
    }
}

#[test]
fn yaml_is_read_within_bounds() {
    // each list holds the one before it ten times: 10^9 values
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    let text = "y".repeat(16 << 10);
    let long = format!("a: &a {text}\nargs:\n  prompts:\n{}", "  - *a\n".repeat(10_000));
    for (text, words) in [
        (bomb, "the file says more than 64 MiB"),
        (long, "the file says more than 64 MiB"),
        (format!("a: {}", "[".repeat(200_000)), "f.yaml:1: "),
        (format!("a: {}{}", "[".repeat(100), "]".repeat(100)), "more than 64 lists and tables inside each other"),
        (format!("{}x", "- ".repeat(100_000)), "f.yaml:1: "),
        ((0..5000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(), "f.yaml:6"),
        ("a: &a [*a]\n".to_owned(), "f.yaml:1: an alias of what it stands in"),
        ("a: *b\n".to_owned(), "f.yaml:1: "),
        ("args:\n  seed: !!python/object/apply:os.system [ls]\n".to_owned(), "f.yaml:2: tags are not read"),
        ("args:\n  seed: !x 3\n".to_owned(), "f.yaml:2: tags are not read"),
        ("? [a]\n: b\n".to_owned(), "a key that is not a text"),
        ("args: {prompts: [a]}\n---\nargs: {prompts: [b]}\n".to_owned(), "a second document"),
        ("args:\n\tseed: 3\n".to_owned(), "f.yaml:2: "),
        ("args: [\n".to_owned(), "f.yaml:"),
        ("args: \"\n".to_owned(), "f.yaml:"),
    ] {
        let message = message(yaml(&text));
        assert!(message.starts_with("f.yaml") && message.contains(words) && message.len() < 300, "{message}");
    }
    let shared = yaml("args:\n  seed: &s 3\n  prompts: [&p a ball, *p, \"b\"]\n  overlap_size: *s\n").unwrap();
    assert_eq!(prompts(&shared), ["a ball", "a ball", "b"]);
    assert_eq!(shared.settings["overlap"].as_integer(), Some(3));
    assert_eq!(yaml("args: {prompts: [!!str 1984, \"yes\", on the sea]}\n").unwrap().scenes[0].prompt, "1984");
}

#[test]
fn json_is_read_within_bounds() {
    for text in ["[", "{\"a\":"].map(|open| open.repeat(200_000)) {
        let message = message(json(&text));
        assert!(message.starts_with("f.json:1: recursion limit exceeded"), "{message}");
    }
    let wide = format!("{{\"scene\": [{}0]}}", "0,".repeat(1 << 20));
    assert!(message(json(&wide)).contains("the file says more than 64 MiB"));
}
