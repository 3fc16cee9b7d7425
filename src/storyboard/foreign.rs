//! Prompt lists of other programs: read where they are equivalent to one of our forms, otherwise refused with the form to
//! use. Recognised by its first lines or its keys, never by the name of the file.
//!
//! | from | form | here |
//! |---|---|---|
//! | FizzNodes (ComfyUI) | `"0" :"a ball",` | prompts by frame, see `by_frame` |
//! | Deforum, WanGP, AnimateDiff prompt travel | JSON of settings | their prompts are read, their other keys named |
//! | WanGP | macros, `! {Colour}="red","blue"` | refused |
//! | spreadsheets | a table with a column of prompts | refused: that is a batch |
//! | A1111 | `Negative prompt:`, `Steps: 20, Sampler: ..` | refused |
//! | subtitles, Markdown tables, web pages, scripts under a name of text | | refused |

use super::by_frame;
use super::node::{Entry, Source, Table, Value};
use super::scenes::{check_count, plain, prompt};
use super::{Storyboard, lines};
use anyhow::{Result, anyhow, bail};

/// What turns a table of jobs into a batch.
const BATCH: &str = "a table of jobs is a batch: python3 -c 'import csv, json, sys; [print(json.dumps({k: v for k, v in \
                     row.items() if v})) for row in csv.DictReader(sys.stdin)]' < TABLE | vidgen batch -";
/// What a column of prompts is called.
const COLUMNS: [&str; 6] = ["prompt", "prompts", "text", "caption", "description", "positive_prompt"];

/// JSON that stands in a file of lines, because it was pasted there: prompts by frame without their braces, or with a comma
/// behind the last. None where it is something else.
pub(super) fn by_frame_text(text: &str) -> Option<String> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let keyed = |line: &str| {
        let (key, rest) = line.strip_prefix('"')?.split_once('"')?;
        let number = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        (number && rest.starts_with('"')).then_some(())
    };
    keyed(first)?;
    // comments of lines are no JSON; lines keep their numbers
    let kept: Vec<&str> =
        text.split('\n').map(|line| if line.trim_start().starts_with('#') { "" } else { line }).collect();
    Some(format!("{{{}}}", kept.join("\n").trim_end().trim_end_matches(',')))
}

/// The same JSON without commas behind a last entry, which other programs' readers allow; as long as it was.
pub(super) fn without_trailing_commas(text: &str) -> String {
    let mut out: Vec<u8> = text.bytes().collect();
    let (mut quoted, mut escaped, mut comma) = (false, false, None);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => (quoted, comma) = (!quoted, None),
            _ if quoted => {}
            b',' => comma = Some(at),
            b'}' | b']' => {
                if let Some(at) = comma.take() {
                    out[at] = b' ';
                }
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => comma = None,
        }
    }
    // single bytes of ASCII were replaced by others
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Refuses lines that cannot be meant as prompts.
pub(super) fn refuse(name: &str, text: &str) -> Result<()> {
    let lines = text.split('\n').enumerate().map(|(index, line)| (index + 1, line.trim()));
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).peekable();
    let Some(&(number, first)) = lines.peek() else { return Ok(()) };
    let lower = first.to_ascii_lowercase();
    let first_is = |what: &str| format!("{name}:{number}: {what}");
    if let Some(column) = table_column(&lower) {
        bail!(first_is(&format!("a table with a column {column:?}, and no list of prompts: {BATCH}")));
    }
    if lower.starts_with("<!doctype") || lower.starts_with("<html") || lower.starts_with("<?xml") {
        bail!(first_is("a web page, and no list of prompts: save its text, one prompt per line"));
    }
    if first == "{" || first.starts_with("{\"") || first.starts_with("[{") || first.starts_with("[\"") || first == "[" {
        bail!(first_is("this begins as JSON does: give the file a name that ends in .json, or use --script"));
    }
    if first.starts_with("[[") && first.ends_with("]]") {
        bail!(first_is("this begins as a scene script does: give the file a name that ends in .toml, or use --script"));
    }
    if first.starts_with('|') && first.ends_with('|') {
        bail!(first_is("a table of Markdown: write one prompt per line, without the bars"));
    }
    if lower == "webvtt" || lower.starts_with("webvtt ") {
        bail!(first_is("subtitles (WebVTT): write [00:00-00:06] before each prompt, one per line"));
    }
    for (number, line) in lines {
        let place = |what: &str| format!("{name}:{number}: {what}");
        if line.starts_with('!') && line.contains("}=") || (line.starts_with("! {") && line.contains('=')) {
            bail!(place(
                "a macro of WanGP, which makes several videos of one line: write a line for each, or use batch with a list, as \
                 {\"prompt\": [[\"a red ball\"], [\"a blue ball\"]]}"
            ));
        }
        if line.contains(" --> ") && line.starts_with(|c: char| c.is_ascii_digit()) {
            bail!(place("subtitles (SubRip): write [00:00-00:06] before each prompt, one per line"));
        }
        if line.starts_with("Negative prompt:") {
            bail!(place("settings of A1111: give the prompt alone, and --negative-prompt for this"));
        }
        if line.starts_with("Steps: ") && (line.contains("Sampler:") || line.contains("CFG scale:")) {
            bail!(place(
                "settings of A1111: give the prompt alone, and --steps, --guidance-scale and --seed for these"
            ));
        }
    }
    Ok(())
}

/// The column of prompts of a line that is the head of a table.
fn table_column(line: &str) -> Option<&'static str> {
    let separator = [',', '\t', ';'].into_iter().find(|separator| line.contains(*separator))?;
    let fields: Vec<&str> = line.split(separator).map(|field| field.trim().trim_matches('"')).collect();
    let named = |field: &&str| {
        !field.is_empty() && field.len() <= 40 && field.chars().all(|c| c.is_ascii_alphanumeric() || "_- ".contains(c))
    };
    let words = |field: &&str| field.split_whitespace().count() <= 2;
    let head = fields.len() >= 2 && fields.iter().all(|field| named(field) && words(field));
    COLUMNS.into_iter().find(|column| head && fields.contains(column))
}

/// Scenes of a table that another program wrote; none where it is none that is known.
pub(super) fn read(source: Source, table: &Table) -> Result<Option<Storyboard>> {
    let frames = |key: &str| match table.get(key).map(|node| &node.value) {
        Some(Value::Table(map)) => Some(map),
        _ => None,
    };
    if let Some(map) = frames("prompt_map") {
        let mut storyboard = by_frame::read(source, map)?;
        let mut around = [String::new(), String::new()];
        for (text, key) in around.iter_mut().zip(["head_prompt", "tail_prompt"]) {
            if let Some(node) = table.get(key) {
                *text = source.word(key, node)?.trim().to_owned();
            }
        }
        for scene in &mut storyboard.scenes {
            let parts = [around[0].as_str(), &scene.prompt, around[1].as_str()];
            let text = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
            scene.prompt = prompt(&text).map_err(|error| anyhow!("{}: {error}", source.name))?;
        }
        return Ok(Some(with_rest(source, storyboard, table, &["prompt_map", "head_prompt", "tail_prompt"])));
    }
    for key in ["prompts", "animation_prompts", "animation_prompts_positive"] {
        let Some(map) = frames(key) else { continue };
        let expression = map.entries().iter().find(|entry| entry.key.contains("max_f"));
        if let Some(entry) = expression {
            return Err(expression_refused(source, entry));
        }
        if by_frame::is_by_frame(map) {
            return Ok(Some(with_rest(source, by_frame::read(source, map)?, table, &[key])));
        }
    }
    if let Some(entry) = table.entries().iter().find(|entry| entry.key.contains("max_f")) {
        return Err(expression_refused(source, entry));
    }
    const OF_WANGP: [&str; 4] = ["resolution", "video_length", "num_inference_steps", "model_type"];
    if let Some(node) = table.get("prompt")
        && table.get("scene").is_none()
        && OF_WANGP.iter().any(|key| table.get(key).is_some())
    {
        let text = source.word("prompt", node)?;
        refuse(source.name, text)?;
        return Ok(Some(with_rest(source, lines::parse(source.name, text)?, table, &["prompt"])));
    }
    Ok(None)
}

fn expression_refused(source: Source, entry: &Entry) -> anyhow::Error {
    let message = format!(
        "the frame {:?} is an expression of Deforum: write the number, as \"48\" for half of 96 frames",
        entry.key
    );
    source.at(entry.line, message)
}

/// Names what was not read.
fn with_rest(source: Source, mut storyboard: Storyboard, table: &Table, read: &[&str]) -> Storyboard {
    const SHOWN: usize = 12;
    let keys = table.entries().iter().map(|entry| entry.key.as_str()).filter(|key| !read.contains(key));
    let keys: Vec<&str> = keys.collect();
    if !keys.is_empty() {
        let more = if keys.len() > SHOWN { format!(" and {} more", keys.len() - SHOWN) } else { String::new() };
        let shown = keys.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        storyboard.warnings.push(format!(
            "{}: settings of another program: its prompts are read, and nothing else; not read: {shown}{more}",
            source.name
        ));
    }
    storyboard
}

/// Texts of a JSON list, one scene each.
pub(super) fn list(source: Source, list: &[super::node::Node]) -> Result<Storyboard> {
    check_count(list.len()).map_err(|error| anyhow!("{}: {error}", source.name))?;
    let scene = |node: &super::node::Node| {
        let text = source.word("a prompt of the list", node)?;
        Ok(plain(prompt(text).map_err(|error| source.at(node.line, error))?))
    };
    let scenes: Vec<_> = list.iter().map(scene).collect::<Result<_>>()?;
    Ok(Storyboard { scenes, ..Storyboard::default() })
}

/// Marks of another program in a prompt, which the text encoder would read as letters: `(red:1.3)`, `((snow))`, `<lora:x:1>`,
/// `BREAK`, `embedding:x`.
pub fn marks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['(', '<', '[']) {
        let from = &rest[at..];
        let mark = match from.as_bytes()[0] {
            b'<' => from.find('>').map(|end| &from[..=end]).filter(|mark| {
                ["<lora:", "<lyco:", "<hypernet:", "<wildcard:"]
                    .iter()
                    .any(|kind| mark.to_ascii_lowercase().starts_with(kind))
            }),
            b'(' if from.starts_with("((") => from.find("))").map(|end| &from[..end + 2]),
            b'(' => from.find(')').map(|end| &from[..=end]).filter(|mark| weighted(mark)),
            _ if from.starts_with("[[") => from.find("]]").map(|end| &from[..end + 2]),
            _ => from.find(']').map(|end| &from[..=end]).filter(|mark| weighted(mark)),
        };
        match mark {
            Some(mark) => {
                found.push(mark.to_owned());
                rest = &from[mark.len()..];
            }
            None => rest = &from[1..],
        }
    }
    let words = text.split_whitespace().filter(|word| *word == "BREAK" || word.starts_with("embedding:"));
    found.extend(words.map(str::to_owned));
    found
}

/// `(red:1.3)`: what stands behind the last colon is a number.
fn weighted(mark: &str) -> bool {
    let inner = &mark[1..mark.len() - 1];
    inner.rsplit_once(':').is_some_and(|(words, number)| {
        !words.trim().is_empty() && number.trim().parse::<f64>().is_ok_and(f64::is_finite)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storyboard::Form;
    use std::path::Path;

    fn read(name: &str, text: &str) -> Result<Storyboard> {
        Storyboard::from_bytes(Path::new(name), text.as_bytes(), Form::Auto)
    }

    fn prompts(name: &str, text: &str) -> Vec<String> {
        let storyboard = read(name, text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        storyboard.scenes.into_iter().map(|scene| scene.prompt).collect()
    }

    #[test]
    fn prompts_of_other_programs_are_read() {
        let two = ["a red ball", "a \"blue\" box, \\o/"];
        let fizz = "\"0\" :\"a red ball\",\n\"48\" :\"a \\\"blue\\\" box, \\\\o/\"";
        for (name, text) in [
            ("fizz.txt", format!("{fizz}\n")),
            ("fizz.txt", format!("# keyframes\n\n{fizz},\n")),
            ("fizz.json", format!("{{\n{fizz},\n}}\n")),
            ("bare.json", format!("{fizz}\n")),
            ("list.json", "[\"a red ball\", \"a \\\"blue\\\" box, \\\\o/\"]".to_owned()),
        ] {
            assert_eq!(prompts(name, &text), two, "{name}: {text}");
        }
        let storyboard = read("fizz.txt", fizz).unwrap();
        assert_eq!(storyboard.scenes[0].length, Some(super::super::Length::Frames(48)));
    }

    #[test]
    fn settings_of_other_programs_give_their_prompts_and_name_the_rest() {
        let deforum =
            "{\"W\": 144, \"max_frames\": 97, \"prompts\": {\"0\": \"a ball\", \"48\": \"a box\"}, \"sampler\": \"x\"}";
        let travel = "{\"name\": \"s\", \"seed\": [-1], \"head_prompt\": \"film\", \"prompt_map\": {\"0\": \"a ball\", \"9\": \
                      \"a box\"}, \"tail_prompt\": \"\"}";
        let wangp = "{\"prompt\": \"a ball\\na box\", \"resolution\": \"144x96\", \"video_length\": 49}";
        for (text, expected, unread) in [
            (deforum, ["a ball", "a box"], ["W", "sampler"]),
            (travel, ["film, a ball", "film, a box"], ["name", "seed"]),
            (wangp, ["a ball", "a box"], ["resolution", "video_length"]),
        ] {
            let storyboard = read("settings.json", text).unwrap();
            let found: Vec<&str> = storyboard.scenes.iter().map(|scene| scene.prompt.as_str()).collect();
            assert_eq!(found, expected, "{text}");
            let [warning] = storyboard.warnings.as_slice() else { panic!("{:?}", storyboard.warnings) };
            assert!(unread.iter().all(|key| warning.contains(key)), "{warning}");
            assert!(storyboard.settings.is_empty());
        }
        let error = read("d.json", "{\"0\": \"a ball\", \"max_f/2\": \"a box\"}").unwrap_err();
        assert!(format!("{error:#}").contains("max_f/2") && format!("{error:#}").contains("expression"), "{error:#}");
    }

    #[test]
    fn what_cannot_be_prompts_is_refused_with_the_form_to_use() {
        for (text, words) in [
            ("! {Colour}=\"red\",\"blue\" : {Place}=\"snow\"\na {Colour} ball\n", ["WanGP", "batch"]),
            ("# macros\n! {Colour}=\"red\"\na {Colour} ball\n", ["WanGP", ":2:"]),
            ("id,prompt,seed\n1,\"a ball, red\",7\n", ["column \"prompt\"", "vidgen batch -"]),
            ("\"Caption\"\t\"Seed\"\na ball\t7\n", ["column \"caption\"", "vidgen batch -"]),
            ("prompt;seed\na ball;3\n", ["column \"prompt\"", "vidgen batch -"]),
            ("{\n  \"scene\": []\n}\n", ["JSON", ".json"]),
            ("[[scene]]\nprompt = \"x\"\n", ["scene script", ".toml"]),
            ("| prompt | seed |\n|---|---|\n", ["Markdown", "per line"]),
            ("<!DOCTYPE html>\n<p>x", ["web page", "per line"]),
            ("1\n00:00:00,000 --> 00:00:05,000\na ball\n", ["SubRip", "[00:00-00:06]"]),
            ("WEBVTT\n\n00:00.000 --> 00:05.000\na ball\n", ["WebVTT", "[00:00-00:06]"]),
            ("a ball\nNegative prompt: ugly\n", ["A1111", "--negative-prompt"]),
            ("a ball\nSteps: 20, Sampler: Euler a, CFG scale: 7\n", ["A1111", "--steps"]),
        ] {
            let error = read("prompts.txt", text).err().unwrap_or_else(|| panic!("{text}"));
            let line = format!("{error:#}");
            assert!(words.iter().all(|word| line.contains(word)) && line.starts_with("prompts.txt:"), "{text}: {line}");
        }
        // and prompts that only look a little like it
        for text in [
            "a ball, a prompt, seed\n",
            "A prompt, in an office, is read aloud\n",
            "! a loud bang\n",
            "{Colour} ball\n",
            "\"A red ball\", he said\n",
            "1. a ball\n2. a box\n",
            "text\n",
        ] {
            assert!(read("prompts.txt", text).is_ok(), "{text}");
        }
    }

    #[test]
    fn marks_of_other_programs_are_found() {
        assert_eq!(
            marks("a (red:1.3) ball in the ((snow)), <lora:detail:0.8> [night:0.5] BREAK x"),
            ["(red:1.3)", "((snow))", "<lora:detail:0.8>", "[night:0.5]", "BREAK"]
        );
        for text in ["a ball (red) rests", "at 10:30 (noon: a break)", "[night]", "a < b > c", "5 (of 7", "<b>"] {
            assert!(marks(text).is_empty(), "{text}: {:?}", marks(text));
        }
    }
}
