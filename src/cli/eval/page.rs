//! Results of `eval` as a page to look at: one HTML file that needs nothing beside it and no network.
//!
//! Pictures are JPEGs inside the file, curves are SVG. Everything that comes out of a file (names, prompts, reasons) is escaped,
//! and the page runs no script.

use super::super::table::plain;
use super::show::{cell, notes, title};
use super::{Set, Work, of_video, sets, show, summary};
use crate::disk;
use crate::eval::report::{Evaluation, Metric, Metrics, means};
use crate::run::{Code, Failure, WithCode};
use crate::video::{self, Frame, Limits};
use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;
use std::path::Path;

/// Pictures of a strip.
const PICTURES: usize = 8;
/// Height of a picture of a strip, in pixels.
const HEIGHT: usize = 96;
/// Most columns of a table whose rows are metrics.
const MOST_COLUMNS: usize = 6;
/// Most videos that have strips and curves; the table has all.
const MOST_VIDEOS: usize = 200;
const QUALITY: u8 = 80;

/// Refuses a name that cannot become the page, before anything is measured.
pub(super) fn check(path: &Path, overwrite: bool) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::message(Code::Usage, message));
    let html =
        path.extension().is_some_and(|suffix| ["html", "htm"].iter().any(|html| suffix.eq_ignore_ascii_case(html)));
    if !html {
        return usage(format!("--report {}: give a name that ends in .html", path.display()));
    }
    if path.is_dir() {
        return usage(format!("--report {}: a directory is there", path.display()));
    }
    if path.exists() && !overwrite {
        return usage(format!("{} exists: give --overwrite (-y) to replace it", path.display()));
    }
    if !disk::parent(path).is_dir() {
        return usage(format!("--report {}: no such directory", path.display()));
    }
    disk::check_name(path).with_context(|| path.display().to_string()).code(Code::Usage)
}

/// Writes the page.
pub(super) fn write(path: &Path, work: &Work, sets: &[Set]) -> Result<(), Failure> {
    let all: Vec<&Evaluation> = sets.iter().flat_map(|set| &set.videos).collect();
    let mut page = format!("<!doctype html>\n<html lang=\"en\">\n{HEAD}<body>\n<h1>Videos measured</h1>\n");
    page.push_str(&table(sets, &all));
    let mut said = sets::lines(work, sets) + &notes(&all) + &show::networks(work);
    for evaluation in &all {
        for warning in &evaluation.warnings {
            let _ = writeln!(said, "{}", plain(&format!("{}: {warning}", evaluation.file))); // a String cannot fail
        }
    }
    for failed in &work.failed {
        let _ = writeln!(said, "{}", plain(&failed.failure.line()));
    }
    let items: String =
        said.lines().filter(|line| !line.is_empty()).map(|line| format!("<li>{}</li>\n", text(line))).collect();
    if !items.is_empty() {
        let _ = write!(page, "<ul>\n{items}</ul>\n");
    }
    for evaluation in all.iter().take(MOST_VIDEOS) {
        page.push_str(&section(work, evaluation)?);
    }
    if all.len() > MOST_VIDEOS {
        let _ = writeln!(page, "<p>{} more videos are in the table only.</p>", all.len() - MOST_VIDEOS);
    }
    let _ = write!(page, "<footer>vidgen {}</footer>\n</body>\n</html>\n", env!("CARGO_PKG_VERSION"));
    disk::write_whole(path, page.as_bytes(), false).with_context(|| path.display().to_string()).code(Code::Failed)
}

const HEAD: &str = r##"<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Videos measured</title>
<style>
:root { color-scheme: light dark; --line: #8886; --soft: #888; --curve: #2f6fd0; --seam: #d08a2f; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 72rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.mean td, td.mean { font-weight: 600; } tr.other td, .other { color: var(--soft); }
td + td { max-width: 20rem; } th { white-space: normal; overflow-wrap: anywhere; } tr > th:first-child { font-weight: 400; white-space: nowrap; }
ul { color: var(--soft); padding-left: 1.2rem; overflow-wrap: anywhere; }
.strip { display: flex; flex-wrap: wrap; gap: 4px; }
figure { margin: 0; flex: none; } figcaption { font-size: .75rem; color: var(--soft); }
img { display: block; border-radius: 3px; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem 2rem; margin-top: 1rem; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); }
polyline { fill: none; stroke: var(--curve); stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.axis { stroke: var(--line); } .seam { stroke: var(--seam); stroke-dasharray: 3 3; }
.facts { color: var(--soft); margin: 0 0 .5rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .8rem; }
</style>
</head>
"##;

/// As text of HTML, or a value in quotes.
fn text(words: &str) -> String {
    let escape = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => "&#39;".to_owned(),
        c => c.to_string(),
    };
    plain(words).chars().map(escape).collect()
}

fn table(sets: &[Set], all: &[&Evaluation]) -> String {
    let metrics: Vec<Metric> = Metric::ALL
        .into_iter()
        .filter(|metric| all.iter().any(|evaluation| evaluation.metrics.contains_key(metric)))
        .collect();
    let mut rows = Vec::new();
    for evaluation in all {
        let (file, frames) = (evaluation.file.clone(), evaluation.frames.to_string());
        rows.push(Row { class: "", name: file, frames, values: &evaluation.metrics, signed: false });
        if let Some(against) = &evaluation.against {
            let name = format!("against {}", against.file);
            rows.push(Row { class: "other", name, frames: String::new(), values: &against.metrics, signed: false });
            let name = "difference".to_owned();
            rows.push(Row { class: "other", name, frames: String::new(), values: &against.difference, signed: true });
        }
    }
    let mut averages: Vec<(String, Metrics)> = Vec::new();
    for set in sets.iter().filter(|_| sets.len() > 1) {
        let (mean, _) = means(set.videos.iter().map(|evaluation| &evaluation.metrics));
        averages.push((format!("mean {}", set.name()), mean));
    }
    if sets.len() == 1 && all.len() > 1 {
        averages.push(("mean".to_owned(), summary(sets).0));
    }
    for (name, values) in &averages {
        rows.push(Row { class: "mean", name: name.clone(), frames: String::new(), values, signed: false });
    }
    let cells = if rows.len() > MOST_COLUMNS { by_video(&rows, &metrics) } else { by_metric(&rows, &metrics) };
    format!("<div class=\"wide\"><table>\n{cells}</table></div>\n")
}

/// A line of the table: a video, what it is compared with, or a mean.
struct Row<'a> {
    class: &'static str,
    name: String,
    frames: String,
    values: &'a Metrics,
    signed: bool,
}

fn by_video(rows: &[Row], metrics: &[Metric]) -> String {
    let mut cells = "<tr><th>video</th><th>frames</th>".to_owned();
    cells.extend(metrics.iter().map(|&metric| heading(metric)));
    cells.push_str("</tr>\n");
    for Row { class, name, frames, values, signed } in rows {
        // a String cannot fail
        let _ = write!(cells, "<tr class=\"{class}\"><td>{}</td><td>{frames}</td>", text(name));
        cells.extend(metrics.iter().map(|metric| format!("<td>{}</td>", cell(*metric, values.get(metric), *signed))));
        cells.push_str("</tr>\n");
    }
    cells
}

/// Of few videos there are more numbers than videos.
fn by_metric(rows: &[Row], metrics: &[Metric]) -> String {
    let mut cells = "<tr><th></th>".to_owned();
    cells.extend(rows.iter().map(|row| format!("<th class=\"{}\">{}</th>", row.class, text(&row.name))));
    cells.push_str("</tr>\n<tr><td>frames</td>");
    cells.extend(rows.iter().map(|row| format!("<td>{}</td>", row.frames)));
    cells.push_str("</tr>\n");
    for &metric in metrics {
        let _ = write!(cells, "<tr>{}", heading(metric)); // a String cannot fail
        let of = |row: &Row| {
            format!("<td class=\"{}\">{}</td>", row.class, cell(metric, row.values.get(&metric), row.signed))
        };
        cells.extend(rows.iter().map(of));
        cells.push_str("</tr>\n");
    }
    cells
}

fn heading(metric: Metric) -> String {
    format!("<th title=\"{}\">{}</th>", metric.name(), text(title(metric)))
}

/// A video: its pictures, its prompts and its curves. One that came from results has no pictures.
fn section(work: &Work, evaluation: &Evaluation) -> Result<String, Failure> {
    let Evaluation { file, frames, width, height, .. } = evaluation;
    let mut page =
        format!("<section>\n<h2>{}</h2>\n<p class=\"facts\">{frames} frames of {width}x{height}</p>\n", text(file));
    let path = Path::new(file);
    let measured_now = work.measured.contains(file);
    if measured_now {
        page.push_str(&strip(path, evaluation)?);
    }
    if !evaluation.scenes.is_empty() {
        page.push_str("<ol>\n");
        for scene in &evaluation.scenes {
            let (first, end) = scene.frames;
            let fit = scene.text_image.map_or(String::new(), |fit| format!(", text-image {:.1} %", 100.0 * fit));
            let _ = writeln!(
                page,
                "<li>{} <span class=\"facts\">(frames {first}-{}{fit})</span></li>",
                text(&scene.prompt),
                end.saturating_sub(1)
            );
        }
        page.push_str("</ol>\n");
    }
    let Some(lists) = &evaluation.per_frame else { return Ok(page + "</section>\n") };
    let seams =
        if measured_now { work.story(path)?.layout.map(|layout| layout.seams).unwrap_or_default() } else { Vec::new() };
    page.push_str("<div class=\"curves\">\n");
    let between =
        |values: &[f64]| values.iter().enumerate().map(|(i, &value)| (i as f64 + 1.0, value)).collect::<Vec<_>>();
    let odd = lists.interpolation_error.iter().enumerate().map(|(i, &value)| (2.0 * i as f64 + 1.0, value)).collect();
    let mut curves = vec![
        ("change from frame to frame, levels", between(&lists.difference)),
        ("similarity of neighbours", between(&lists.similarity)),
        ("error of predicted frames, levels", odd),
        ("LPIPS of neighbours", between(&lists.lpips)),
        ("flow, pixels per frame", between(&lists.flow)),
    ];
    if let Some(other) = evaluation.against.as_ref().and_then(|against| against.frames.as_ref()) {
        let at = |values: &[f64]| values.iter().enumerate().map(|(i, &value)| (i as f64, value)).collect::<Vec<_>>();
        let known = |values: &[Option<f64>]| {
            values.iter().enumerate().filter_map(|(i, value)| Some((i as f64, (*value)?))).collect::<Vec<_>>()
        };
        curves.push(("PSNR against the other, dB", known(&other.psnr_by_frame)));
        curves.push(("SSIM against the other", known(&other.ssim_by_frame)));
        curves.push(("LPIPS against the other", at(&other.lpips_by_frame)));
    }
    for (what, points) in curves.into_iter().filter(|(_, points)| points.len() > 1) {
        page.push_str(&curve(what, &points, *frames, &seams));
    }
    Ok(page + "</div>\n</section>\n")
}

/// Frames from the whole length, evenly.
fn strip(path: &Path, evaluation: &Evaluation) -> Result<String, Failure> {
    let count = PICTURES.min(evaluation.frames);
    let place = |i: usize| if count < 2 { 0 } else { i * (evaluation.frames - 1) / (count - 1) };
    let wanted: Vec<usize> = (0..count).map(place).collect();
    let mut page = "<div class=\"strip\">\n".to_owned();
    let mut next = wanted.iter().peekable();
    for (index, frame) in video::read(path, &Limits::default()).map_err(of_video)?.enumerate() {
        if next.peek() != Some(&&index) {
            continue;
        }
        next.next();
        let small = small(frame.map_err(of_video)?);
        let data = STANDARD.encode(video::jpeg(&small, QUALITY).map_err(of_video)?);
        // a String cannot fail
        let _ = writeln!(
            page,
            "<figure><img width=\"{}\" height=\"{}\" alt=\"frame {index}\" src=\"data:image/jpeg;base64,{data}\"><figcaption>{index}</figcaption></figure>",
            small.width, small.height
        );
        if next.peek().is_none() {
            break;
        }
    }
    Ok(page + "</div>\n")
}

fn small(frame: Frame) -> Frame {
    let height = frame.height.min(HEIGHT);
    let width = (frame.width * height / frame.height.max(1)).max(1);
    if (width, height) == (frame.width, frame.height) { frame } else { frame.resized(width, height) }
}

/// Points (frame, value) over all frames, with lines where windows meet.
fn curve(what: &str, points: &[(f64, f64)], frames: usize, seams: &[usize]) -> String {
    const LEFT: f64 = 40.0;
    const RIGHT: f64 = 400.0;
    const TOP: f64 = 18.0;
    const BOTTOM: f64 = 128.0;
    let (least, most) = points.iter().fold((f64::MAX, f64::MIN), |(least, most), &(_, y)| (least.min(y), most.max(y)));
    // a curve that does not move lies in the middle
    let (least, most) = if most > least { (least, most) } else { (least - 0.5, most + 0.5) };
    let x = |frame: f64| LEFT + (RIGHT - LEFT) * frame / (frames.max(2) - 1) as f64;
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * (value - least) / (most - least);
    let mut page = format!(
        "<svg viewBox=\"0 0 410 146\" preserveAspectRatio=\"xMinYMid meet\" role=\"img\" aria-label=\"{what}\">\n<text x=\"{LEFT}\" y=\"11\">{what}</text>\n",
        what = text(what)
    );
    let tick = |value: f64| {
        if most >= 100.0 {
            format!("{value:.0}")
        } else if most >= 1.0 {
            format!("{value:.2}")
        } else {
            format!("{value:.3}")
        }
    };
    let last = frames.saturating_sub(1);
    // a String cannot fail
    let _ = write!(
        page,
        "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{BOTTOM}\" x2=\"{RIGHT}\" y2=\"{BOTTOM}\"/>\n<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{2}</text><text x=\"{0}\" y=\"{BOTTOM}\" text-anchor=\"end\">{3}</text>\n<text x=\"{LEFT}\" y=\"142\">0</text><text x=\"{RIGHT}\" y=\"142\" text-anchor=\"end\">{last}</text>\n",
        LEFT - 4.0,
        TOP + 4.0,
        tick(most),
        tick(least),
    );
    for &seam in seams {
        let at = x(seam as f64);
        let _ = writeln!(
            page,
            "<line class=\"seam\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{BOTTOM}\"><title>windows meet at frame {seam}</title></line>"
        );
    }
    let points: Vec<String> = points.iter().map(|&(frame, value)| format!("{:.1},{:.1}", x(frame), y(value))).collect();
    let _ = writeln!(page, "<polyline points=\"{}\"/>\n</svg>", points.join(" "));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_say_is_no_markup() {
        assert_eq!(text("<a href='x'>&\"\u{1b}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\u{fffd}");
    }

    #[test]
    fn curves_stay_in_their_frame() {
        let svg = curve("x", &[(1.0, 2.0), (2.0, 5.0), (3.0, 3.0)], 4, &[2]);
        assert!(svg.contains("points=\"160.0,128.0 280.0,18.0 400.0,91.3\""), "{svg}");
        assert!(svg.contains("windows meet at frame 2") && svg.contains(">5.00<") && svg.contains(">2.00<"));
        assert!(curve("x", &[(1.0, 2.0), (2.0, 2.0)], 3, &[]).contains("220.0,73.0 400.0,73.0"));
    }
}
