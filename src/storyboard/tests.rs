//! The readers on good, bad and damaged input, and the storyboards of `prompts/`.

use super::form_tests::{CASE, CHAIN, SCRIPT_JSON, TIMES};
use super::node::Syntax;
use super::read;
use super::scenes::{MOST_PROMPT, MOST_SCENES};
use super::*;
use crate::run::{Code, Failure};
use std::collections::BTreeSet;
use std::path::Path;

const SCRIPT: &str = r#"schema = "vidgen.scene.v1"
seed = 42
size = "144x96"

[defaults]
duration = "6s"
transition = { kind = "blend", overlap = 9 }

[[scene]]
prompt = "a red ball"
subject = "red ball"

[[scene]]
prompt = """
  a blue box
  in the snow
"""
transition = { windows = 1 }
frames = 0x31
subject = ["blue box", " snow "]

[[scene]]
prompt = 'a star'
transition = "cut"
duration = 1.5
"#;

pub(super) fn parse(name: &str, bytes: &[u8], syntax: Syntax) -> Result<Storyboard> {
    read::parse(name, read::text(name, bytes)?, syntax)
}

fn lines(text: &[u8]) -> Result<Storyboard> {
    parse("f.txt", text, Syntax::Lines)
}

fn script(text: &str) -> Result<Storyboard> {
    parse("f.toml", text.as_bytes(), Syntax::Toml)
}

pub(super) fn prompts(storyboard: &Storyboard) -> Vec<&str> {
    storyboard.scenes.iter().map(|scene| scene.prompt.as_str()).collect()
}

pub(super) fn message(result: Result<Storyboard>) -> String {
    Failure::from(result.unwrap_err()).line()
}

#[test]
fn lines_become_scenes() {
    let storyboard =
        lines("\u{feff}# a comment\r\n  one \r\n\r\n\t# two\nzwei: \u{fc} # not a comment\n\u{a0}\n".as_bytes());
    let storyboard = storyboard.unwrap();
    assert_eq!(prompts(&storyboard), ["one", "zwei: \u{fc} # not a comment"]);
    assert!(storyboard.settings.is_empty());
    assert_eq!(storyboard.scenes[0].transition, TransitionInto::default());
    assert_eq!(prompts(&lines(b"x").unwrap()), ["x"]);
}

#[test]
fn bad_lines_name_their_place() {
    for empty in ["", "\n\n", "# only\n  # comments\r\n", "\u{feff}"] {
        assert_eq!(message(lines(empty.as_bytes())), "f.txt: no prompt in it; write one prompt per line");
    }
    let utf8 = message(lines(b"one\ntwo \xe9\n"));
    for bytes in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a"] {
        assert!(message(lines(bytes)).contains("UTF-16"));
    }
    assert!(message(lines(b"\0\0\0\x20ftypisom\xad")).contains("is no text"));
    // files of an editor of Windows, one behind the other
    assert_eq!(prompts(&lines("a\n\u{feff}b\n".as_bytes()).unwrap()), ["a", "b"]);
    assert_eq!(utf8, "f.txt:2: byte 5 of the line (0xe9) is not UTF-8: save the file as UTF-8");
    assert!(message(lines("o\0n\0e\0".as_bytes())).starts_with("f.txt:1: control character U+0000"));
    assert_eq!(lines(format!("#\n{}", "x".repeat(MOST_PROMPT)).as_bytes()).unwrap().scenes.len(), 1);
    let long = message(lines(format!("#\n{}", "x".repeat(MOST_PROMPT + 1)).as_bytes()));
    assert_eq!(long, "f.txt:2: 16385 bytes are too long for a prompt: prompts go up to 16384");
    assert_eq!(lines("x\n".repeat(MOST_SCENES).as_bytes()).unwrap().scenes.len(), MOST_SCENES);
    let many = message(lines("x\n".repeat(MOST_SCENES + 5).as_bytes()));
    assert_eq!(many, "f.txt:10001: 10005 scenes are more than the 10000 that a video may have");
}

#[test]
fn arguments_become_scenes() {
    let given =
        |words: &[&str]| Storyboard::from_prompts(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
    assert_eq!(prompts(&given(&[" one ", "# two", "a\n b"]).unwrap()), ["one", "# two", "a b"]);
    assert_eq!(message(given(&["one", " \t"])), "prompt 2: an empty prompt: write what is to be seen");
    assert_eq!(message(given(&[])), "no prompt: write what is to be seen");
    assert!(message(given(&["\u{1b}[31mred"])).contains("U+001B"));
    assert_eq!(Failure::from(given(&[""]).unwrap_err()).code, Code::Usage);
}

#[test]
fn files_are_read_by_their_form() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    for (name, text) in [("a.json", SCRIPT_JSON), ("a.yaml", CASE), ("A.YML", CASE), ("b.txt", TIMES)] {
        assert_eq!(Storyboard::read(&write(name, text.as_bytes()), Form::Auto).unwrap().scenes.len(), 3, "{name}");
    }
    for text in [SCRIPT_JSON, CASE, SCRIPT, CHAIN] {
        assert_eq!(Storyboard::read(&write("a", text.as_bytes()), Form::Script).unwrap().scenes.len(), 3);
    }
    let upper = write("story.TOML", SCRIPT.as_bytes());
    let plain = write("story", SCRIPT.as_bytes());
    assert_eq!(Storyboard::read(&upper, Form::Auto).unwrap().scenes.len(), 3);
    assert_eq!(Storyboard::read(&plain, Form::Script).unwrap().scenes.len(), 3);
    assert_eq!(Storyboard::read(&plain, Form::Auto).unwrap().scenes[0].prompt, "schema = \"vidgen.scene.v1\"");
    assert_eq!(Storyboard::read(&upper, Form::Lines).unwrap(), Storyboard::read(&plain, Form::Auto).unwrap());

    let large = write("large", &vec![b'#'; (4 << 20) + 1]);
    let missing = folder.path().join("missing.txt");
    for (path, words) in [
        (large.as_path(), "more than 4194304 bytes"),
        (missing.as_path(), "no such file"),
        (folder.path(), "is a directory"),
    ] {
        let failure = Failure::from(Storyboard::read(path, Form::Auto).unwrap_err());
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.line().starts_with(&format!("{}: {words}", path.display())), "{}", failure.line());
    }
    assert_eq!(message(Storyboard::read(Path::new(""), Form::Auto)), "an empty file name: give a file");
}

#[test]
fn scripts_become_scenes() {
    let storyboard = script(SCRIPT).unwrap();
    let scene = |prompt: &str, subject: &[&str], length, transition| Scene {
        prompt: prompt.to_owned(),
        subject: subject.iter().map(|&words| words.to_owned()).collect(),
        length: Some(length),
        transition,
        ..Scene::default()
    };
    let none = TransitionInto::default();
    assert_eq!(
        storyboard.scenes,
        [
            scene("a red ball", &["red ball"], Length::Seconds(6.0), none),
            scene(
                "a blue box in the snow",
                &["blue box", "snow"],
                Length::Frames(49),
                TransitionInto { windows: Some(1), ..none }
            ),
            scene("a star", &[], Length::Seconds(1.5), TransitionInto { kind: Some(Transition::Cut), ..none }),
        ]
    );
    assert_eq!(storyboard.places["seed"], "f.toml:2");
    assert_eq!(storyboard.places["overlap"], "f.toml:7");
    let into = |text: &str| {
        let text = format!("[[scene]]\nprompt = \"a\"\n[[scene]]\nprompt = \"b\"\ntransition = {text}\n");
        script(&text).unwrap().scenes[1].transition.kind
    };
    assert_eq!(into("\"fade\""), Some(Transition::Fade(None)));
    assert_eq!(into("\"fade:12\""), Some(Transition::Fade(Some(12))));
    assert_eq!(into("{ kind = \"fade\", frames = 3 }"), Some(Transition::Fade(Some(3))));
    assert_eq!(Transition::Fade(Some(3)).to_string().parse::<Transition>().unwrap(), Transition::Fade(Some(3)));
    // the default transition is a setting, so that a flag outweighs it
    let settings = "overlap = 9\nseed = 42\nsize = \"144x96\"\ntransition = \"blend\"\n";
    assert_eq!(storyboard.settings, toml::from_str(settings).unwrap());

    let short = script("\u{feff}scene = [{ prompt = \"a\" }, { prompt = \"b\", duration = 8 }]\r\n").unwrap();
    assert_eq!(prompts(&short), ["a", "b"]);
    assert_eq!((short.scenes[0].length, short.scenes[1].length), (None, Some(Length::Seconds(8.0))));
}

#[test]
fn bad_scripts_name_their_line() {
    let scene = "[[scene]]\nprompt = \"a\"\n";
    let known = "(known: prompt, subject, duration, frames, time, transition)";
    for (text, words) in [
        (format!("schema = \"vidgen.scene.v2\"\n{scene}"), "1: schema \"vidgen.scene.v2\" is not supported"),
        (format!("schema = 1\n{scene}"), "1: schema is not a text"),
        ("x = 1\ny =\n".to_owned(), "2: "),
        (
            format!("{scene}promt = \"b\"\n"),
            &format!("3: unknown key of [[scene]] \"promt\": did you mean prompt? {known}"),
        ),
        (format!("{scene}subject = [\"a\", 3]\n"), "3: subject is not a text"),
        (format!("{scene}subject = \" \"\n"), "3: an empty subject"),
        (format!("\n[defaults]\nframe = 3\n{scene}"), "3: unknown key of [defaults] \"frame\": did you mean frames?"),
        (format!("defaults = 3\n{scene}"), "1: defaults is not a table"),
        (format!("{scene}duration = \"6s\"\nframes = 9\n"), "3: frames and duration both say the length"),
        (format!("{scene}duration = \"6 hours\"\n"), "3: duration \"6 hours\" is not a time"),
        (format!("{scene}duration = -1\n"), "3: duration \"-1\" must be longer than nothing"),
        (format!("{scene}duration = nan\n"), "3: duration \"nan\" must be longer"),
        (format!("{scene}duration = true\n"), "3: duration is neither a number of seconds nor a time"),
        (format!("{scene}frames = 0\n"), "3: frames is not a whole number from 1 to 1000000"),
        (format!("{scene}frames = 49.0\n"), "3: frames is not a whole number"),
        (format!("{scene}frames = 99999999999999999999\n"), "3: "),
        (format!("{scene}transition = \"cut\"\n"), "3: a transition leads into its scene, and before the first"),
        (
            format!("{scene}{scene}transition = \"atention\"\n"),
            "5: unknown transition \"atention\": did you mean attention? (known: attention, blend, relay, cut, fade, continue)",
        ),
        (format!("{scene}{scene}transition = \"fade:0\"\n"), "5: transition \"fade:0\": a fade takes 1 to 1000 frames"),
        (format!("{scene}{scene}transition = {{ kind = \"fade\", windows = 1 }}\n"), "5: a fade shares nothing"),
        (format!("{scene}{scene}transition = {{ kind = \"fade:3\", frames = 3 }}\n"), "5: kind and frames both"),
        (format!("{scene}{scene}transition = {{ kind = \"cut\", frames = 3 }}\n"), "5: frames are those of a fade"),
        (format!("{scene}{scene}transition = {{ kind = \"fade\", frames = 9999 }}\n"), "5: transition \"fade:9999\""),
        (
            format!("{scene}{scene}transition = {{ overlp = 3 }}\n"),
            "5: unknown key of a transition \"overlp\": did you",
        ),
        (format!("{scene}{scene}transition = {{ kind = \"cut\", windows = 1 }}\n"), "5: a cut shares nothing"),
        (
            format!("{scene}{scene}transition = {{ kind = \"continue\", windows = 1 }}\n"),
            "5: scenes that continue have no windows",
        ),
        (format!("{scene}{scene}transition = \"continue:words\"\n"), "5: unknown feed \"words\""),
        (format!("{scene}{scene}transition = {{ windows = -1 }}\n"), "5: windows is not a whole number from 0"),
        (format!("{scene}{scene}transition = 3\n"), "5: transition is not a text"),
        (
            format!("transition = \"cut\"\n{scene}{scene}transition = {{ windows = 1 }}\n"),
            "6: scenes of this script follow by cut: add kind",
        ),
        (format!("overlap = 3\n[defaults.transition]\noverlap = 3\n{scene}"), "2: overlap stands at the top"),
        ("[scene]\nprompt = \"a\"\n".to_owned(), "1: a scene is a table: write [[scene]]"),
        ("\nscene = [3]\n".to_owned(), "2: a scene is a table"),
        ("\n[[scene]]\nframes = 3\n".to_owned(), "2: this scene has no prompt"),
        ("[[scene]]\nprompt = \" \"\n".to_owned(), "2: an empty prompt"),
        ("[[scene]]\nprompt = [\"a\"]\n".to_owned(), "2: prompt is not a text"),
        (format!("scene = [{}]", "{prompt=\"a\"},".repeat(MOST_SCENES + 1)), "1: 10001 scenes are more than the 10000"),
    ] {
        let message = message(script(&text));
        assert!(message.starts_with(&format!("f.toml:{words}")), "{text}\n{message}");
    }
    for text in ["", "# x\n", "seed = 3\n", "scene = []\n"] {
        assert_eq!(message(script(text)), "f.toml: no scene in it; write [[scene]] and a prompt for each");
    }
}

#[test]
fn deep_and_wide_scripts_end_in_a_line() {
    let deep = 200_000;
    for text in [
        format!("a = {}", "[".repeat(deep)),
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("a = {}", "{a=".repeat(deep)),
        format!("{}a = 1", "a.".repeat(deep)),
        format!("[{}a]", "a.".repeat(deep)),
        format!("[[{}a]]\nb = 1", "a.".repeat(deep)),
        format!("[[scene]]\n{} = 1", "k".repeat(deep)),
    ] {
        let message = message(script(&text));
        assert!(message.starts_with("f.toml") && message.len() < 400, "{message}");
    }
}

/// Some thousands of damaged copies of a file: each is read or refused with one line.
#[test]
fn damaged_files_never_panic() {
    let text = "# a comment\none \u{fc}\r\n\n  two\n".repeat(3);
    let mut state = 1u64;
    let mut below = move |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % most
    };
    let (mut read, mut refused) = (0, 0);
    for round in 0..9000 {
        let (source, syntax) = [
            (text.as_str(), Syntax::Lines),
            (SCRIPT, Syntax::Toml),
            (CASE, Syntax::Yaml),
            (SCRIPT_JSON, Syntax::Json),
            (CHAIN, Syntax::Toml),
            (TIMES, Syntax::Lines),
        ][round % 6];
        let mut bytes = source.as_bytes().to_vec();
        for _ in 0..=below(4) {
            let at = below(bytes.len());
            let until = at + below(bytes.len() - at).min(20);
            match below(5) {
                0 => bytes[at] = below(256) as u8,
                1 => bytes[at] = b"[]{}=.\"'#\n0-_,"[below(14)],
                2 => bytes.truncate(at.max(1)),
                3 => drop(bytes.drain(at..until)),
                _ => bytes.extend_from_within(at..until),
            }
            if bytes.is_empty() {
                bytes.push(b'x');
            }
        }
        match parse("f", &bytes, syntax) {
            Ok(storyboard) => {
                assert!(storyboard.scenes.iter().all(|scene| !scene.prompt.trim().is_empty()));
                assert!(!storyboard.scenes.is_empty());
                read += 1;
            }
            Err(error) => {
                let line = Failure::from(error).line();
                assert!(line.starts_with("f:") && line.lines().count() == 1, "{line}");
                refused += 1;
            }
        }
    }
    assert!(read > 500 && refused > 500, "{read} read, {refused} refused");
}

/// Toyland's words, from its tokenizer.
fn vocabulary(root: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root.join("models/toyland/tokenizer/tokenizer.json")).unwrap();
    let tokenizer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entries = tokenizer["model"]["vocab"].as_array().unwrap().iter();
    entries.map(|entry| entry[0].as_str().unwrap().trim_start_matches('\u{2581}').to_owned()).collect()
}

#[test]
fn the_storyboards_of_the_repository_are_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let vocabulary = vocabulary(root);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("prompts")).unwrap() {
        let path = entry.unwrap().path();
        let storyboard = Storyboard::read(&path, Form::Auto).unwrap();
        assert!(storyboard.scenes.len() >= 2, "{}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // for Toyland: what it has no word for it cannot show
        let unknown = |prompt: &str| {
            prompt.replace(',', " , ").split_whitespace().find(|&word| !vocabulary.contains(word)).map(str::to_owned)
        };
        if name != "dark-knight.txt" {
            for scene in &storyboard.scenes {
                assert_eq!(unknown(&scene.prompt), None, "{name}: {}", scene.prompt);
            }
        }
        names.push(name);
    }
    names.sort();
    assert_eq!(
        names,
        [
            "around-the-clock.toml",
            "ball.yaml",
            "by-frame.json",
            "by-time.txt",
            "colours.toml",
            "dark-knight.txt",
            "day-to-night.toml",
            "follow.yaml",
            "seasons.txt",
            "shapes.json",
            "there-and-back.json",
            "trailer.toml",
            "two-scenes.json"
        ]
    );
}
