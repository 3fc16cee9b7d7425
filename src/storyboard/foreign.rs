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

/// What turns a table of jobs into a batch, of which `column` has the prompts.
fn batch(separator: char, column: &str) -> String {
    let delimiter = match separator {
        ',' => "",
        '\t' => ", delimiter=\"\\t\"",
        _ => ", delimiter=\";\"",
    };
    // other columns are jobs' keys only where the table is one of jobs
    let job = match column {
        "prompt" => "{k: v for k, v in row.items() if v}".to_owned(),
        column => format!("{{\"prompt\": row[\"{column}\"]}}"),
    };
    format!(
        "a table of jobs is a batch: python3 -c 'import csv, json, sys; [print(json.dumps({job})) for row in \
         csv.DictReader(sys.stdin{delimiter})]' < TABLE | vidgen batch -"
    )
}
/// What a column of prompts is called.
const COLUMNS: [&str; 6] = ["prompt", "prompts", "text", "caption", "description", "positive_prompt"];

/// JSON that stands in a file of lines, because it was pasted there: prompts by frame without their braces, or with a comma
/// behind the last. None where it is something else.
pub(super) fn by_frame_text(text: &str) -> Option<String> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    if !keyed(first, '"') {
        return None;
    }
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
    if let Some((separator, column)) = table_column(first) {
        let batch = batch(separator, column);
        bail!(first_is(&format!("a table with a column {column:?}, and no list of prompts: {batch}")));
    }
    let rest: Vec<&str> = lines.clone().map(|(_, line)| line).collect();
    if let Some(what) = another_form(&rest) {
        bail!(first_is(what));
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
    if lower == "webvtt" || lower.starts_with("webvtt ") {
        bail!(first_is("subtitles (WebVTT): write [00:00-00:06] before each prompt, one per line"));
    }
    for (number, line) in lines {
        let place = |what: &str| format!("{name}:{number}: {what}");
        if line.len() > 1 && line.starts_with('|') && line.ends_with('|') {
            bail!(place("a table of Markdown: write one prompt per line, without the bars"));
        }
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

/// What lines are that all, or from the first on, have a form that no prompts have.
fn another_form(lines: &[&str]) -> Option<&'static str> {
    let first = lines.first()?;
    let lower = first.to_ascii_lowercase();
    let all = |is: fn(&str) -> bool| lines.len() >= 2 && lines.iter().all(|line| is(line));
    Some(match lower.as_str() {
        "[script info]" => "subtitles (SubStation): write [00:00-00:06] before each prompt, one per line",
        start if start.starts_with("{\\rtf") => "rich text: save it as plain text, one prompt per line",
        "scene:" | "args:" | "defaults:" => {
            "this begins as a scene script does: give the file a name that ends in .yaml, or use --script"
        }
        _ if all(|line| line.starts_with('{') && line.trim_end_matches(',').ends_with('}') && line.contains(':')) => {
            "a JSON object on each line is a list of jobs: vidgen batch FILE"
        }
        _ if lines.iter().all(|line| keyed(line, '\'')) => {
            "prompts by frame in single quotes, which JSON has none of: write \"0\": \"a red ball\", in double ones"
        }
        _ if all(|line| numbered(line, ':')) && first.starts_with("0") => {
            "frames before prompts: give them in JSON, as {\"0\": \"a red ball\", \"48\": \"a blue ball\"}, in a file that ends in .json"
        }
        _ if all(|line| numbered(line, ',')) => {
            "a table without a head, and no list of prompts: write one prompt per line, without numbers and quotes"
        }
        _ if lines.iter().all(|line| is_timed(line)) => {
            "times that are not read: write [00:00-00:06] before each prompt, in square brackets"
        }
        _ => return None,
    })
}

/// `0: a ball` or `1,"a ball"`: a number, the separator, and a text; behind a comma only one in quotes.
fn numbered(line: &str, separator: char) -> bool {
    line.split_once(separator).is_some_and(|(number, text)| {
        let number = number.trim();
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let text = text.trim_start();
        digits
            && !text.is_empty()
            && (separator != ',' || text.starts_with('"'))
            && !text.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// `00:00-00:06 a ball`: a stretch of time without the brackets of [`super::lines`].
fn is_timed(line: &str) -> bool {
    let of_time = |text: &str| {
        let (from, to) = text.split_once(['-', '\u{2013}']).unwrap_or_default();
        let number = |text: &str| {
            let text = text.trim().trim_end_matches('s').trim_end();
            text.starts_with(|c: char| c.is_ascii_digit())
                && text.chars().all(|c| c.is_ascii_digit() || [':', '.'].contains(&c))
        };
        let unit = |text: &str| text.contains(':') || text.trim_end().ends_with('s');
        number(from) && number(to) && unit(to)
    };
    line.split_once(char::is_whitespace).is_some_and(|(times, _)| of_time(times) && times.contains(':'))
}

/// `"0": "a ball"`, with this quotation mark.
fn keyed(line: &str, quote: char) -> bool {
    let Some((key, rest)) = line.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) else { return false };
    let number = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
    let rest = rest.trim_start().strip_prefix(':').map(str::trim_start);
    number && rest.is_some_and(|rest| rest.starts_with(quote))
}

/// The separator of a line that is the head of a table, and the column of prompts as it is written.
fn table_column(line: &str) -> Option<(char, &str)> {
    let separator = [',', '\t', ';'].into_iter().find(|separator| line.contains(*separator))?;
    let fields: Vec<&str> = line.split(separator).map(|field| field.trim().trim_matches('"')).collect();
    let named = |field: &&str| {
        !field.is_empty() && field.len() <= 40 && field.chars().all(|c| c.is_ascii_alphanumeric() || "_- ".contains(c))
    };
    let words = |field: &&str| field.split_whitespace().count() <= 2;
    let head = fields.len() >= 2 && fields.iter().all(|field| named(field) && words(field));
    let column = fields.iter().find(|field| COLUMNS.iter().any(|column| field.eq_ignore_ascii_case(column)));
    column.filter(|_| head).map(|column| (separator, *column))
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
    let nodes_of = |entry: &Entry| matches!(&entry.value.value, Value::Table(node) if node.get("class_type").is_some());
    if table.get("nodes").is_some() && table.get("links").is_some() || table.entries().iter().any(nodes_of) {
        bail!("{}: a workflow of ComfyUI: write the prompts of its nodes into a file, one per line", source.name);
    }
    let by_number = |entry: &Entry| entry.key.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
    if !table.entries().is_empty() && table.entries().iter().all(by_number) && !by_frame::is_by_frame(table) {
        let whole = |entry: &&Entry| !entry.key.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(entry) = table.entries().iter().find(whole) {
            let message = format!("{:?} is no frame: prompts by frame have whole numbers from 0, as \"48\"", entry.key);
            return Err(source.at(entry.line, message));
        }
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
/// `BREAK`, `embedding:x`, `__colour__`, `{red|blue}`, `red++`, `--neg`.
pub fn marks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['(', '<', '[', '{']) {
        let from = &rest[at..];
        let mark = match from.as_bytes()[0] {
            b'<' => from.find('>').map(|end| &from[..=end]).filter(|mark| {
                ["<lora:", "<lyco:", "<hypernet:", "<wildcard:"]
                    .iter()
                    .any(|kind| mark.to_ascii_lowercase().starts_with(kind))
            }),
            b'(' if from.starts_with("((") => from.find("))").map(|end| &from[..end + 2]),
            b'(' => from.find(')').map(|end| &from[..=end]).filter(|mark| weighted(mark)),
            b'{' => from.find('}').map(|end| &from[..=end]).filter(|mark| mark.contains('|')),
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
    let words = text.split_whitespace().map(|word| word.trim_end_matches([',', ';', '.']));
    found.extend(words.filter(|word| is_mark(word)).map(str::to_owned));
    found
}

fn is_mark(word: &str) -> bool {
    let inner = word.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"));
    let weighed = word.strip_suffix("++").or_else(|| word.strip_suffix("--"));
    ["BREAK", "--neg", "--no"].contains(&word)
        || word.starts_with("embedding:")
        || inner.is_some_and(|name| name.chars().any(char::is_alphanumeric))
        || weighed.is_some_and(|rest| is_weighed(rest.trim_end_matches(['+', '-'])))
}

/// Of `red++`: a word that is more than a letter of a name, as C++ has.
fn is_weighed(word: &str) -> bool {
    word.chars().count() > 1 && word.ends_with(|c: char| c.is_alphanumeric() || c == ')')
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
            ("\"Caption\"\t\"Seed\"\na ball\t7\n", ["column \"Caption\"", "vidgen batch -"]),
            ("prompt;seed\na ball;3\n", ["column \"prompt\"", "vidgen batch -"]),
            ("{\n  \"scene\": []\n}\n", ["JSON", ".json"]),
            ("[[scene]]\nprompt = \"x\"\n", ["scene script", ".toml"]),
            ("| prompt | seed |\n|---|---|\n", ["Markdown", "per line"]),
            ("<!DOCTYPE html>\n<p>x", ["web page", "per line"]),
            ("1\n00:00:00,000 --> 00:00:05,000\na ball\n", ["SubRip", "[00:00-00:06]"]),
            ("WEBVTT\n\n00:00.000 --> 00:05.000\na ball\n", ["WebVTT", "[00:00-00:06]"]),
            ("a ball\nNegative prompt: ugly\n", ["A1111", "--negative-prompt"]),
            ("Caption\tseed\na ball\t1\n", ["row[\"Caption\"]", "delimiter=\"\\t\""]),
            ("'0': 'a ball',\n'48': 'a box'\n", ["single quotes", "\"0\": \"a red ball\""]),
            ("0: a ball\n48: a box\n", ["frames before prompts", ".json"]),
            ("1,\"a ball\"\n2,\"a box\"\n", ["without a head", "per line"]),
            ("{\"prompt\": \"a ball\"}\n{\"prompt\": \"a box\"}\n", ["list of jobs", "vidgen batch"]),
            ("[Script Info]\nTitle: x\n", ["SubStation", "[00:00-00:06]"]),
            ("{\\rtf1\\ansi a ball}\n", ["rich text", "plain text"]),
            ("scene:\n  - prompt: a ball\n", ["scene script", ".yaml"]),
            ("a ball\n| a | b |\n", ["Markdown", ":2:"]),
            ("00:00-00:05 a ball\n00:05-00:10 a box\n", ["times", "[00:00-00:06]"]),
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
            "2: a ball\n",
            "10: a ball\na box\n",
            "1, 2 and 3 balls\n2, 3 and 4 balls\n",
            "it's 10:00-12:00 in the meadow\n",
            "[2-3] balls\n",
            "1940s-1950s cars on a road\n",
            "2-3 balls in the snow\n",
            "{a} ball: red\n",
            "scene: a red ball\n",
            "'90s': a ball\n",
            "| a bar at the left\n",
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
        assert_eq!(
            marks("a __colour__ ball, embedding:easy, (a cat)++, red-- {red|blue} --neg ugly"),
            ["{red|blue}", "__colour__", "embedding:easy", "cat)++", "red--", "--neg"]
        );
        for text in [
            "a ball (red) rests",
            "at 10:30 (noon: a break)",
            "[night]",
            "a < b > c",
            "5 (of 7",
            "<b>",
            "c++",
            "a -- b",
            "{x}",
            "____",
            "a_b",
        ] {
            assert!(marks(text).is_empty(), "{text}: {:?}", marks(text));
        }
    }
}
