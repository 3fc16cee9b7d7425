//! Results of `eval` for people and for programs.

use super::super::table::{headed, plain};
use super::sets::Reference;
use super::{Set, Work, summary};
use crate::eval::report::{Evaluation, Metric, Metrics, SCHEMA, means};
use crate::eval::warping::FlowSource;
use crate::eval::{Evaluator, faces, fvd, motion, perceptual};
use crate::interpolation;
use crate::run::Failure;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Reasons told below a table; the JSON has all.
const MOST_REASONS: usize = 12;

pub(super) fn json(work: &Work, sets: &[Set]) -> Result<String, Failure> {
    let failed: Vec<Value> =
        work.failed.iter().map(|failed| json!({ "file": failed.file, "error": failed.failure.line() })).collect();
    let of_sets: Vec<Value> = sets
        .iter()
        .map(|set| {
            let (mean, count) = means(set.videos.iter().map(|evaluation| &evaluation.metrics));
            let mut object = json!({ "name": set.name, "videos": set.videos.len(), "mean": mean, "count": count });
            if let Some(reference) = &work.fvd {
                object["fvd"] = json!(reference.distance(set));
                object["fvd_videos"] = json!(set.logits.len());
            }
            object
        })
        .collect();
    let (mean, count) = summary(sets);
    let by = match (&work.evaluator.clip, &work.evaluator.judge) {
        (Some(_), _) => Some("clip"),
        (None, Some(_)) => Some("judge"),
        (None, None) => None,
    };
    let interpolator = work.evaluator.rife.as_ref();
    let mut videos: Vec<Evaluation> = sets.iter().flat_map(|set| set.videos.clone()).collect();
    if !work.args.per_frame {
        videos.iter_mut().for_each(without_lists);
    }
    let object = json!({
        "schema": SCHEMA,
        "version": env!("CARGO_PKG_VERSION"),
        "clip": work.clip.as_ref().map(|(name, revision)| json!({ "name": name, "revision": revision })),
        "judge": work.args.judge,
        "cscv_by": by,
        "interpolator": interpolator.as_ref().map_or(motion::INTERPOLATOR, |_| interpolation::NETWORK),
        "rife": interpolator.map(|rife| json!({ "network": interpolation::NETWORK, "file": rife.file })),
        "lpips": work.evaluator.lpips.as_ref().map(|lpips| json!({ "network": perceptual::NETWORK, "file": lpips.file })),
        "faces": work.evaluator.faces.as_ref().map(|of| json!({ "network": faces::NETWORK, "file": of.file })),
        "flow": work.args.flow.as_ref().map(|from| json!({
            "from": from,
            "estimator": work.evaluator.flow.as_ref().and_then(FlowSource::estimator),
        })),
        "fvd": work.fvd.as_ref().map(Reference::json),
        "videos": videos,
        "sets": of_sets,
        "mean": mean,
        "count": count,
        "failed": failed,
    });
    Ok(serde_json::to_string_pretty(&object).map_err(anyhow::Error::from)? + "\n")
}

/// Takes out the lists that only the page draws.
fn without_lists(evaluation: &mut Evaluation) {
    evaluation.per_frame = None;
    if let Some(frames) = evaluation.against.as_mut().and_then(|against| against.frames.as_mut()) {
        frames.psnr_by_frame.clear();
        frames.ssim_by_frame.clear();
        frames.lpips_by_frame.clear();
    }
}

pub(super) fn title(metric: Metric) -> &'static str {
    match metric {
        Metric::Cscv => "CSCV %",
        Metric::MotionSmoothness => "motion %",
        Metric::TextImage => "text-image %",
        Metric::Flicker => "flicker %",
        Metric::Seam => "seam",
        Metric::WorstSeam => "worst seam",
        Metric::Judge => "judge %",
        Metric::JudgeColour => "colour %",
        Metric::JudgeShape => "shape %",
        Metric::JudgeMotion => "motion word %",
        Metric::JudgePlace => "place %",
        Metric::JudgeTime => "time %",
        Metric::Present => "present %",
        Metric::Psnr => "PSNR dB",
        Metric::Ssim => "SSIM %",
        Metric::Lpips => "LPIPS",
        Metric::LpipsNeighbours => "LPIPS step",
        Metric::Flow => "flow px",
        Metric::FlowDeviation => "flow std px",
        Metric::Reidentification => "re-id %",
        Metric::Scuts => "cuts",
        Metric::WarpError => "warp error",
        Metric::FlowMean => "flow mean px",
        Metric::Mawe => "MAWE",
        Metric::MawePaper => "MAWE paper",
        Metric::Timing => "timing",
        Metric::TwoSubjects => "two subjects",
        Metric::SubjectJump => "subject jump",
    }
}

/// Rows for videos and for means. Bounded scores are in percent.
pub(super) fn table(sets: &[Set], only_means: bool) -> String {
    let all = || sets.iter().flat_map(|set| &set.videos);
    let has = |metric: &Metric| all().any(|evaluation| evaluation.metrics.contains_key(metric));
    let metrics: Vec<Metric> = Metric::ALL.into_iter().filter(has).collect();
    let cells = |values: &Metrics, signed: bool| -> Vec<String> {
        metrics.iter().map(|metric| cell(*metric, values.get(metric), signed)).collect()
    };
    let row = |name: &str, count: String, values: &Metrics, signed: bool| {
        [vec![plain(name), count], cells(values, signed)].concat()
    };
    let head = ["video".to_owned(), if only_means { "videos" } else { "frames" }.to_owned()];
    let mut rows =
        vec![[&head[..], &metrics.iter().map(|metric| title(*metric).to_owned()).collect::<Vec<_>>()].concat()];
    if !only_means {
        for evaluation in all() {
            rows.push(row(&evaluation.file, evaluation.frames.to_string(), &evaluation.metrics, false));
            if let Some(against) = &evaluation.against {
                rows.push(row(&format!("  against {}", against.file), String::new(), &against.metrics, false));
                rows.push(row("  difference", String::new(), &against.difference, true));
            }
        }
    }
    let several = sets.len() > 1;
    for set in sets.iter().filter(|_| several || only_means) {
        let (mean, _) = means(set.videos.iter().map(|evaluation| &evaluation.metrics));
        let name = set.name();
        let (name, count) = if only_means {
            (name.to_owned(), set.videos.len().to_string())
        } else {
            (format!("mean {name}"), String::new())
        };
        rows.push(row(&name, count, &mean, false));
    }
    if !several && !only_means && all().count() > 1 {
        rows.push(row("mean", String::new(), &summary(sets).0, false));
        let differences: Vec<&Metrics> = all().filter_map(|video| Some(&video.against.as_ref()?.difference)).collect();
        if !differences.is_empty() {
            rows.push(row("mean difference", String::new(), &means(differences.into_iter()).0, true));
        }
    }
    let notes = notes(&all().collect::<Vec<_>>());
    let gap = if notes.is_empty() { "" } else { "\n" };
    format!("{}{gap}{notes}", headed(&rows))
}

/// Which networks the numbers are of, and their files. Nothing where all numbers came out of results.
pub(super) fn networks(work: &Work) -> String {
    if work.measured.is_empty() {
        return String::new();
    }
    let mut lines: Vec<String> = Vec::new();
    let mut by = |what: &str, network: &str, file: &str| lines.push(format!("{what} by {network}, {file}"));
    let Evaluator { clip, judge, lpips, rife, faces: persons, flow } = &work.evaluator;
    if let Some((name, _)) = clip.as_ref().and(work.clip.as_ref()) {
        by("CSCV and text-image similarity", "CLIP", name);
    }
    if judge.is_some() {
        let what = if clip.is_some() { "judge and present" } else { "CSCV, judge and present" };
        by(what, "the judge of Toyland", "in the binary");
    }
    match rife {
        Some(rife) => by("motion smoothness and flow", interpolation::NETWORK, &rife.file),
        None => by("motion smoothness", "block matching", "no network"),
    }
    if let Some(lpips) = lpips {
        by("LPIPS", perceptual::NETWORK, &lpips.file);
    }
    if let Some(persons) = persons {
        by("re-identification", faces::NETWORK, &persons.file);
    }
    if let Some(flow) = flow {
        by(
            "warp error and MAWE",
            flow.estimator().unwrap_or("the given flow"),
            work.args.flow.as_deref().unwrap_or_default(),
        );
    }
    if let Some(reference) = &work.fvd {
        by("FVD", fvd::NETWORK, reference.network_file());
    }
    lines.iter().map(|line| plain(line) + "\n").collect()
}

pub(super) fn cell(metric: Metric, value: Option<&f64>, signed: bool) -> String {
    let Some(value) = value else { return "-".to_owned() };
    match (metric, signed) {
        (metric, true) if metric.percent() => format!("{:+.2}", 100.0 * value),
        (metric, false) if metric.percent() => format!("{:.2}", 100.0 * value),
        (Metric::Lpips | Metric::LpipsNeighbours, true) => format!("{value:+.4}"),
        (Metric::Lpips | Metric::LpipsNeighbours, false) => format!("{value:.4}"),
        (_, true) => format!("{value:+.2}"),
        (_, false) => format!("{value:.2}"),
    }
}

/// Why there are gaps, each reason once, and what else there is to say.
pub(super) fn notes(all: &[&Evaluation]) -> String {
    let mut reasons: BTreeMap<&str, (Vec<Metric>, Vec<&str>)> = BTreeMap::new();
    for evaluation in all {
        for (metric, reason) in &evaluation.absent {
            let (metrics, files) = reasons.entry(reason).or_default();
            if !metrics.contains(metric) {
                metrics.push(*metric);
            }
            if files.last() != Some(&evaluation.file.as_str()) {
                files.push(&evaluation.file);
            }
        }
    }
    let mut text = String::new();
    for (reason, (mut metrics, files)) in reasons.iter().map(|(reason, told)| (reason, told.clone())).take(MOST_REASONS)
    {
        metrics.sort();
        // the judge's questions go with the judge
        if metrics.contains(&Metric::Judge) {
            metrics.retain(|metric| !metric.name().starts_with("judge_"));
        }
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name()).collect();
        let place = match files.len() {
            count if count == all.len() => String::new(),
            1 => format!(" of {}", files[0]),
            count => format!(" of {count} videos"),
        };
        // writing to a String cannot fail
        let _ = writeln!(text, "{}", plain(&format!("no {}{place}: {reason}", names.join(", "))));
    }
    for evaluation in all {
        if let Some(note) = evaluation.against.as_ref().and_then(|against| against.note.as_ref()) {
            let _ = writeln!(text, "{}", plain(&format!("{} against the other: {note}", evaluation.file)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(file: &str, metrics: &[(Metric, f64)], absent: &[(Metric, &str)]) -> Evaluation {
        Evaluation {
            file: file.to_owned(),
            frames: 97,
            width: 16,
            height: 16,
            metrics: metrics.iter().copied().collect(),
            absent: absent.iter().map(|(metric, why)| (*metric, (*why).to_owned())).collect(),
            scenes: Vec::new(),
            warnings: Vec::new(),
            per_frame: None,
            against: None,
        }
    }

    #[test]
    fn videos_and_their_mean_are_rows() {
        let missing = [(Metric::Cscv, "needs x"), (Metric::Judge, "needs y"), (Metric::JudgeTime, "needs y")];
        let a = video("a.mp4", &[(Metric::Flicker, 0.98765), (Metric::Seam, 1.25)], &missing);
        let b = video("b\u{1b}.mp4", &[(Metric::Flicker, 1.0)], &[(Metric::Seam, "one window")]);
        let sets = [Set { name: None, videos: vec![a, b], logits: Vec::new() }];
        let want = "\
video   frames  flicker %  seam
a.mp4   97      98.77      1.25
b\u{fffd}.mp4  97      100.00     -
mean            99.38      1.25

no cscv of a.mp4: needs x
no judge of a.mp4: needs y
no seam of b\u{fffd}.mp4: one window
";
        assert_eq!(table(&sets, false), want);
    }

    #[test]
    fn sets_have_a_row_each() {
        let set = |name: &str, value: f64| Set {
            name: Some(name.to_owned()),
            videos: vec![video("v", &[(Metric::Cscv, value)], &[]), video("w", &[(Metric::Cscv, value + 0.1)], &[])],
            logits: Vec::new(),
        };
        assert_eq!(
            table(&[set("ours", 0.8), set("cuts", 0.5)], true),
            "\
video  videos  CSCV %
ours   2       85.00
cuts   2       55.00
"
        );
    }
}
