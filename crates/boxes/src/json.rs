//! Boxes in JSON: our own form, and those of MotionBooth, Peekaboo and DreamVideo-Omni.

use crate::path::{along, checked, moved};
use crate::{Boxes, Rect, finished, held, mixed, share};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use vidgen_base::words::unknown;

/// Reads one form of a table.
type Form = fn(&Map<String, Value>, usize) -> Result<Boxes>;

/// The most keys, points or frames of a file.
const MOST: usize = 1_000_000;

pub fn read(value: &Value, frames: usize) -> Result<Boxes> {
    let table = match value {
        Value::Object(table) => table,
        Value::Array(list) => match list.as_slice() {
            [Value::Object(table)] => table,
            _ => bail!("a list of {} records; boxes are of one video", list.len()),
        },
        _ => bail!("neither a table nor a list"),
    };
    let forms: [(&str, Form); 5] =
        [("subjects", own), ("frames_info", omni), ("bbox", motion_booth), ("bboxes", by_frame), ("boxes", by_frame)];
    match forms.iter().find(|(key, _)| table.contains_key(*key)) {
        Some((_, form)) => form(table, frames),
        None => bail!("none of the keys that boxes are under: subjects, boxes, bboxes, bbox, frames_info"),
    }
}

fn list<'a>(value: &'a Value, place: &str) -> Result<&'a [Value]> {
    let list = value.as_array().with_context(|| format!("{place}: expected a list"))?;
    ensure!(list.len() <= MOST, "{place}: {} entries; at most {MOST}", list.len());
    Ok(list)
}

fn number(value: &Value, place: &str) -> Result<f64> {
    let number = value.as_f64().with_context(|| format!("{place}: expected a number"))?;
    ensure!(number.is_finite(), "{place}: not finite");
    Ok(number)
}

fn rect(value: &Value, place: &str) -> Result<Rect> {
    let edges = list(value, place)?;
    ensure!(edges.len() == 4, "{place}: {} numbers; a box has four", edges.len());
    let numbers = edges
        .iter()
        .enumerate()
        .map(|(i, edge)| number(edge, &format!("{place}[{i}]")))
        .collect::<Result<Vec<f64>>>()?;
    checked([numbers[0], numbers[1], numbers[2], numbers[3]]).with_context(|| place.to_owned())
}

/// `bboxes` (or `boxes`): a box, or null, for each frame.
fn by_frame(table: &Map<String, Value>, frames: usize) -> Result<Boxes> {
    let key = if table.contains_key("bboxes") { "bboxes" } else { "boxes" };
    let each = |(i, value): (usize, &Value)| match value {
        Value::Null => Ok(None),
        value => rect(value, &format!("{key}[{i}]")).map(Some),
    };
    held(&list(&table[key], key)?.iter().enumerate().map(each).collect::<Result<Vec<_>>>()?, frames)
}

/// `bbox`: keys, each a list of one box; `bbox_proportions`: how long the way from each to the next is.
fn motion_booth(table: &Map<String, Value>, frames: usize) -> Result<Boxes> {
    let mut keys = Vec::new();
    for (k, value) in list(&table["bbox"], "bbox")?.iter().enumerate() {
        let place = format!("bbox[{k}]");
        match list(value, &place)? {
            [one] => keys.push(rect(one, &format!("{place}[0]"))?),
            several => bail!("{place}: {} boxes; one subject can be followed", several.len()),
        }
    }
    let shares = match table.get("bbox_proportions") {
        Some(value) => list(value, "bbox_proportions")?,
        None => bail!("bbox_proportions: missing"),
    };
    let shares = shares
        .iter()
        .enumerate()
        .map(|(i, value)| number(value, &format!("bbox_proportions[{i}]")))
        .collect::<Result<Vec<f64>>>()?;
    let sum: f64 = shares.iter().sum();
    ensure!(
        sum > 0.0 && shares.iter().all(|share| *share >= 0.0),
        "bbox_proportions: expected numbers from 0 on, not all 0"
    );
    ensure!(
        keys.len() > shares.len(),
        "{} boxes for {} proportions: one box more than ways between them",
        keys.len(),
        shares.len()
    );
    let mut made = Vec::new();
    for (k, share) in shares.iter().enumerate() {
        let length = (share * frames as f64 / sum).round_ties_even() as usize;
        let way = (0..length).map(|j| Some(mixed(&keys[k], &keys[k + 1], j as f64 / length as f64)));
        made.extend(way.take(frames - made.len()));
    }
    made.resize(frames, Some(keys[shares.len()]));
    finished(made)
}

/// `frames_info`: of each frame a list of boxes in pixels of `width` and `height`.
fn omni(table: &Map<String, Value>, frames: usize) -> Result<Boxes> {
    let side = |key: &str| -> Result<f64> {
        let value = number(table.get(key).with_context(|| format!("{key}: missing"))?, key)?;
        ensure!(value >= 1.0, "{key}: expected the picture's side in pixels");
        Ok(value)
    };
    let (width, height) = (side("width")?, side("height")?);
    let (mut made, mut named) = (Vec::new(), Vec::new());
    for (i, frame) in list(&table["frames_info"], "frames_info")?.iter().enumerate() {
        let place = format!("frames_info[{i}].bboxes");
        let boxes = match frame.get("bboxes") {
            None | Some(Value::Null) => &[],
            Some(value) => list(value, &place)?,
        };
        for entry in boxes {
            let name = entry.get("obj_id").map_or_else(String::new, Value::to_string);
            if !named.contains(&name) && named.len() < 10 {
                named.push(name);
            }
        }
        ensure!(named.len() < 2, "several subjects, obj_id {}: one can be followed", named.join(" and "));
        made.push(match boxes {
            [] => None,
            [one] => {
                let place = format!("{place}[0].bbox");
                let pixels = rect(one.get("bbox").with_context(|| format!("{place}: missing"))?, &place)?;
                Some([pixels[0] / width, pixels[1] / height, pixels[2] / width, pixels[3] / height])
            }
            several => bail!("{place}: {} boxes of one subject", several.len()),
        });
    }
    held(&made, frames)
}

/// Our own: keys of one subject, in pixels of `size` or in units of the sides, and perhaps a line.
fn own(table: &Map<String, Value>, frames: usize) -> Result<Boxes> {
    for key in table.keys() {
        if !["size", "frames", "interp", "subjects"].contains(&key.as_str()) {
            return Err(unknown("key", key, &["size", "frames", "interp", "subjects"]));
        }
    }
    let subject = match list(&table["subjects"], "subjects")? {
        [Value::Object(subject)] => subject,
        [] => bail!("subjects: none"),
        [_] => bail!("subjects[0]: expected a table"),
        several => {
            let name = |(i, subject): (usize, &Value)| {
                subject.get("name").and_then(Value::as_str).map_or_else(|| format!("number {i}"), str::to_owned)
            };
            let names: Vec<String> = several.iter().enumerate().map(name).take(10).collect();
            bail!("subjects: {} ({}); one can be followed", several.len(), names.join(", "))
        }
    };
    for key in subject.keys() {
        if !["name", "keys", "trajectory"].contains(&key.as_str()) {
            return Err(unknown("key", key, &["name", "keys", "trajectory"])).context("subjects[0]");
        }
    }
    let size = size(table.get("size"))?;
    let clock = clock(table.get("frames"), frames)?;
    let shape = shape(table.get("interp"))?;
    let keys = keys(subject.get("keys"), size)?;
    match subject.get("trajectory") {
        None | Some(Value::Null) => finished((0..frames).map(|i| Some(between_keys(&keys, clock(i), shape))).collect()),
        Some(line) => follow(line, &keys[0].1, size, frames, clock),
    }
}

fn size(value: Option<&Value>) -> Result<[f64; 2]> {
    match value {
        None | Some(Value::Null) => Ok([1.0, 1.0]),
        Some(value) => match list(value, "size")? {
            [w, h] => {
                let sides = [number(w, "size[0]")?, number(h, "size[1]")?];
                ensure!(sides.iter().all(|side| *side > 0.0), "size: expected a width and a height above 0");
                Ok(sides)
            }
            _ => bail!("size: expected [width, height]"),
        },
    }
}

/// The time of each frame, in the file's frames or, where it has none, from 0 to 1.
fn clock(value: Option<&Value>, frames: usize) -> Result<impl Fn(usize) -> f64 + Copy> {
    let last = match value {
        None | Some(Value::Null) => 1.0,
        Some(value) => {
            let count =
                value.as_u64().filter(|count| *count >= 1).context("frames: expected a whole number from 1 on")?;
            (count - 1) as f64
        }
    };
    Ok(move |index| share(index, frames) * last)
}

/// How a box gets from one key to the next.
fn shape(value: Option<&Value>) -> Result<fn(f64) -> f64> {
    let word = match value {
        None | Some(Value::Null) => "linear",
        Some(value) => value.as_str().context("interp: expected a word")?,
    };
    match word {
        "linear" => Ok(|w| w),
        "smoothstep" => Ok(|w| w * w * (3.0 - 2.0 * w)),
        // at the next key itself it is the next one's turn
        "hold" => Ok(|w| if w < 1.0 { 0.0 } else { 1.0 }),
        _ => Err(unknown("interp", word, &["linear", "smoothstep", "hold"])),
    }
}

fn keys(value: Option<&Value>, size: [f64; 2]) -> Result<Vec<(f64, Rect)>> {
    let mut made: Vec<(f64, Rect)> = Vec::new();
    let entries = list(value.context("subjects[0].keys: missing")?, "subjects[0].keys")?;
    for (k, entry) in entries.iter().enumerate() {
        let place = format!("subjects[0].keys[{k}]");
        let time = number(entry.get("t").with_context(|| format!("{place}.t: missing"))?, &format!("{place}.t"))?;
        let pixels = rect(entry.get("box").with_context(|| format!("{place}.box: missing"))?, &format!("{place}.box"))?;
        if let Some((before, _)) = made.last() {
            ensure!(time > *before, "{place}.t: {time} after {before}; times must rise");
        }
        made.push((time, [pixels[0] / size[0], pixels[1] / size[1], pixels[2] / size[0], pixels[3] / size[1]]));
    }
    ensure!(!made.is_empty(), "subjects[0].keys: none");
    Ok(made)
}

fn between_keys(keys: &[(f64, Rect)], time: f64, shape: fn(f64) -> f64) -> Rect {
    let Some(next) = keys.iter().position(|(key, _)| *key >= time) else { return keys[keys.len() - 1].1 };
    let ((a, from), (b, to)) = (&keys[next.saturating_sub(1)], &keys[next]);
    if b > a { mixed(from, to, shape((time - a) / (b - a))) } else { *to }
}

/// The first key's box along a line: of points, at an even speed; or of times and points.
fn follow(line: &Value, first: &Rect, size: [f64; 2], frames: usize, clock: impl Fn(usize) -> f64) -> Result<Boxes> {
    let place = "subjects[0].trajectory";
    let mut rows = Vec::new();
    for (i, row) in list(line, place)?.iter().enumerate() {
        let place = format!("{place}[{i}]");
        let numbers = list(row, &place)?.iter().map(|value| number(value, &place)).collect::<Result<Vec<f64>>>()?;
        ensure!((2..=3).contains(&numbers.len()), "{place}: {} numbers; expected [x, y] or [t, x, y]", numbers.len());
        rows.push(numbers);
    }
    ensure!(!rows.is_empty(), "{place}: no points");
    ensure!(rows.iter().all(|row| row.len() == rows[0].len()), "{place}: some points have times and some do not");
    let point = |row: &[f64]| [row[row.len() - 2] / size[0], row[row.len() - 1] / size[1]];
    if rows[0].len() == 2 {
        return along(first, &rows.iter().map(|row| point(row)).collect::<Vec<_>>(), frames);
    }
    let keyed: Vec<(f64, [f64; 2])> = rows.iter().map(|row| (row[0], point(row))).collect();
    ensure!(keyed.windows(2).all(|pair| pair[1].0 > pair[0].0), "{place}: times must rise");
    finished((0..frames).map(|i| Some(moved(first, &keyed, clock(i)))).collect())
}

#[cfg(test)]
mod tests {
    use crate::{Boxes, Rect, read};

    fn near(made: &Boxes, index: usize, wanted: Rect) {
        let rect = made[index].unwrap();
        assert!(rect.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{index}: {rect:?} is not {wanted:?}");
    }

    #[test]
    fn keys_are_in_the_files_frames_and_pixels() {
        let file = |interp: &str| {
            format!(
                r#"{{"size": [200, 100], "frames": 5, "interp": "{interp}", "subjects": [{{"name": "dog", "keys": [
                {{"t": 1, "box": [20, 10, 60, 50]}}, {{"t": 3, "box": [100, 10, 140, 50]}}]}}]}}"#
            )
        };
        let linear = read(&file("linear"), 9).unwrap();
        near(&linear, 0, [0.1, 0.1, 0.3, 0.5]);
        near(&linear, 3, [0.2, 0.1, 0.4, 0.5]);
        near(&linear, 8, [0.5, 0.1, 0.7, 0.5]);
        near(&read(&file("smoothstep"), 9).unwrap(), 3, [0.1 + 0.4 * 0.15625, 0.1, 0.3 + 0.4 * 0.15625, 0.5]);
        let hold = read(&file("hold"), 9).unwrap();
        near(&hold, 5, [0.1, 0.1, 0.3, 0.5]);
        near(&hold, 6, [0.5, 0.1, 0.7, 0.5]);
    }

    #[test]
    fn a_line_is_followed_by_its_length_or_by_its_times() {
        let file = |line: &str| {
            format!(r#"{{"subjects": [{{"keys": [{{"t": 0, "box": [0.1, 0.1, 0.3, 0.3]}}], "trajectory": {line}}}]}}"#)
        };
        near(&read(&file("[[0.5, 0.5], [0.9, 0.5]]"), 5).unwrap(), 2, [0.3, 0.1, 0.5, 0.3]);
        let timed = read(&file("[[0.5, 0.5, 0.5], [1, 0.9, 0.5]]"), 5).unwrap();
        near(&timed, 1, [0.1, 0.1, 0.3, 0.3]);
        near(&timed, 3, [0.3, 0.1, 0.5, 0.3]);
    }

    #[test]
    fn public_forms() {
        let booth = read(r#"{"bbox": [[[0, 0, 0.2, 0.2]], [[0.4, 0, 0.6, 0.2]], [[0.4, 0.4, 0.6, 0.6]]], "bbox_proportions": [1, 1]}"#, 5).unwrap();
        // 2.5 frames each, which is 2 to even; the one left over has the last key
        near(&booth, 1, [0.2, 0.0, 0.4, 0.2]);
        near(&booth, 2, [0.4, 0.0, 0.6, 0.2]);
        near(&booth, 4, [0.4, 0.4, 0.6, 0.6]);
        let peekaboo = read(r#"[{"prompt": "a dog", "bboxes": [[0, 0, 0.5, 0.5], null]}]"#, 3).unwrap();
        assert_eq!(peekaboo, [Some([0.0, 0.0, 0.5, 0.5]), None, None]);
        let omni = read(
            r#"{"width": 832, "height": 480, "frames_info": [{"bboxes": [{"bbox": [208, 120, 416, 240], "obj_id": 1}]}, {"bboxes": []}]}"#, 2)
            .unwrap();
        assert_eq!(omni, [Some([0.25, 0.25, 0.5, 0.5]), None]);
        let printed = read(r#"{"frames": 2, "boxes": [null, [0.1, 0.1, 0.2, 0.2]]}"#, 2).unwrap();
        assert_eq!(printed, [None, Some([0.1, 0.1, 0.2, 0.2])]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (file, told) in [
            ("{", "no valid JSON"),
            ("[]", "a list of 0 records"),
            ("{\"x\": 1}", "none of the keys"),
            ("{\"bboxes\": [[0, 0, 1]]}", "bboxes[0]: 3 numbers"),
            ("{\"bboxes\": [[0, 0, \"a\", 1]]}", "bboxes[0][2]: expected a number"),
            ("{\"bboxes\": [[0.5, 0, 0.1, 1]]}", "bboxes[0]: the right edge"),
            ("{\"bboxes\": [null]}", "no frame has a box"),
            ("{\"bboxes\": []}", "no boxes in it"),
            ("{\"bbox\": [[[0,0,1,1],[0,0,1,1]]], \"bbox_proportions\": [1]}", "bbox[0]: 2 boxes"),
            ("{\"bbox\": [[[0,0,1,1]]], \"bbox_proportions\": [1]}", "1 boxes for 1 proportions"),
            ("{\"bbox\": [[[0,0,1,1]]]}", "bbox_proportions: missing"),
            ("{\"frames_info\": [], \"width\": 10}", "height: missing"),
            (
                r#"{"width": 9, "height": 9, "frames_info": [{"bboxes": [{"bbox": [0,0,1,1], "obj_id": 1}, {"bbox": [0,0,1,1], "obj_id": 2}]}]}"#,
                "obj_id 1 and 2",
            ),
            (r#"{"subjects": [{"name": "dog", "keys": []}, {"name": "cat", "keys": []}]}"#, "2 (dog, cat)"),
            (
                r#"{"subjects": [{"keys": [{"t": 0, "box": [0,0,1,1]}, {"t": 0, "box": [0,0,1,1]}]}]}"#,
                "times must rise",
            ),
            (r#"{"subjects": [{"keys": []}]}"#, "subjects[0].keys: none"),
            (r#"{"subjects": [{}]}"#, "subjects[0].keys: missing"),
            (r#"{"interp": "cubic", "subjects": [{"keys": [{"t": 0, "box": [0,0,1,1]}]}]}"#, "unknown interp"),
            (r#"{"frame": 3, "subjects": []}"#, "did you mean frames"),
        ] {
            let error = format!("{:#}", read(file, 4).unwrap_err());
            assert!(error.contains(told), "{file}: {error}");
        }
    }
}
