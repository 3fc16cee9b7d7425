//! `rerun`: a video once more from the record it carries, and whether it is the same.

use super::Report;
use super::chosen::{Choice, Chosen};
use super::{render, resume, settle};
use crate::job::values::OnInterrupt;
use crate::job::{Group, Request, Settings};
use crate::pipelines::{self, Loaded, hashes};
use crate::run::directory::file_hash;
use crate::run::{Code, Failure, Manifest, WithCode, interrupt, print};
use crate::video::{self, Frame, Limits};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  vidgen rerun ball.mp4
  vidgen rerun ball.mp4 -o again.mp4 --device cuda
  vidgen rerun ball.mp4 --check
  vidgen rerun ball.mp4 --check --min-psnr 40 --json

With --check no file is kept: each frame of the video made again is compared with the one that is there. On the same build \
and device they are identical; where they are not, the exit code is 7 and the distance of each frame is told.";

/// The weights may lie elsewhere, and another machine may compute.
#[derive(Debug)]
struct Again;

impl Choice for Again {
    const GROUPS: &'static [Group] = &[Group::Model, Group::Machine, Group::Places, Group::Storage, Group::Run];
    const SETTLED: &'static str = "the record of the video";
}

/// Settings that make no sense in a comparison.
fn kept() -> Vec<&'static str> {
    [&["output", "manifest", "work_dir"], Settings::names_of(&[Group::Run]).as_slice()].concat()
}

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Args {
    /// A video of vidgen, a directory of PNGs, or a sidecar (.json)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Compare the frames and keep no file; exit code 7 where they differ
    #[arg(long, conflicts_with_all = kept())]
    check: bool,
    /// The peak signal-to-noise ratio in decibels that every frame must have, instead of being identical
    #[arg(long, value_name = "X", requires = "check")]
    min_psnr: Option<f64>,
    /// Run on weights that are not those the video was made with
    #[arg(long = "any-weights")]
    any_weights: bool,
    #[command(flatten)]
    settings: Chosen<Again>,
}

impl Args {
    pub fn run(self, report: &Report) -> Result<(), Failure> {
        let given = self.settings.0;
        settle::prepare(&given, report)?;
        let manifest = Manifest::read(&self.file)?;
        let shown = self.file.display();
        let request = Request::of_manifest(&manifest).with_context(|| shown.to_string())?;
        let video = match self.file.extension() {
            Some(suffix) if suffix.eq_ignore_ascii_case("json") => self.file.with_extension(""),
            _ => self.file.clone(),
        };
        if self.check && !video.exists() {
            let message = format!("{}: no such file: there is nothing to compare with", video.display());
            return Err(Failure::message(Code::Usage, message));
        }
        let folder = tempfile::tempdir().context("a place for the video that is compared")?;
        let place = if self.check { folder.path().join(video.file_name().unwrap_or_default()) } else { named(&video) };
        let slash = if video.is_dir() { "/" } else { "" };
        let output = given.output.clone().unwrap_or_else(|| format!("{}{slash}", place.display()));
        let asked = given.model.clone();
        let below = report.settings()?.only(Group::ASIDE);
        let mut settings = Settings { output: Some(output), ..given.or(request.settings).or(below) };
        if self.check {
            // nothing of this run stays, and nothing of one that is kept is touched
            interrupt::discard(Some(folder.path().to_owned()));
            settings = settings.without(&[Group::Run]);
            settings.work_dir = Some(folder.path().join("runs"));
            settings.on_interrupt = Some(OnInterrupt::Discard);
        }
        let job = resume::found(Request { settings, ..request }, asked.as_deref())?;
        let here = hashes(job.first()).code(Code::Model)?;
        let other = manifest.model.hashes.iter().find(|(part, hash)| here.get(*part) != Some(*hash));
        if let (Some((part, _)), false) = (other, self.any_weights) {
            let message = format!(
                "{shown}: the weights of part {part:?} of {} are not those it was made with: give the right --model, or \
                 --any-weights",
                job.first().model.folder.place()
            );
            return Err(Failure::message(Code::Model, message));
        }
        if !self.check {
            return render::one(&job, &mut Loaded::for_jobs(false), report).map(|_| ());
        }
        let made = pipelines::run(&job, &mut Loaded::for_jobs(false), &mut *report.observer()?)?;
        let found = Comparison::new(&video, &made.video.path)?;
        print(&if report.json { format!("{}\n", found.json(&video)) } else { found.describe() })?;
        if found.passes(self.min_psnr) {
            Ok(())
        } else {
            Err(Failure::message(Code::Check, format!("{shown}: {}", found.fault(self.min_psnr))))
        }
    }
}

/// `a/ball-rerun.mp4` for `a/ball.mp4`.
fn named(video: &Path) -> PathBuf {
    let plain: PathBuf = video.components().collect();
    let stem = plain.file_stem().unwrap_or_default().to_string_lossy();
    match plain.extension().filter(|_| !plain.is_dir()) {
        Some(suffix) => plain.with_file_name(format!("{stem}-rerun.{}", suffix.to_string_lossy())),
        None => plain.with_file_name(format!("{}-rerun", plain.file_name().unwrap_or_default().to_string_lossy())),
    }
}

/// Two videos, frame by frame.
#[derive(Debug, PartialEq)]
struct Comparison {
    /// Peak signal-to-noise ratio in decibels, infinite for identical frames, of those that both have.
    psnr: Vec<f64>,
    /// Frames of the one and the other.
    frames: (usize, usize),
    /// Whether the files are the same, byte for byte.
    bytes: bool,
}

impl Comparison {
    fn new(one: &Path, other: &Path) -> Result<Self, Failure> {
        let limits = Limits::default();
        let (mut a, mut b) = (video::read(one, &limits)?, video::read(other, &limits)?);
        let (mut psnr, mut frames) = (Vec::new(), (0, 0));
        loop {
            let (one, other) = (a.next().transpose()?, b.next().transpose()?);
            frames.0 += usize::from(one.is_some());
            frames.1 += usize::from(other.is_some());
            match (one, other) {
                (None, None) => break,
                (Some(one), Some(other)) => psnr.push(distance(&one, &other)),
                _ => {}
            }
        }
        let bytes = !one.is_dir() && file_hash(one)? == file_hash(other)?;
        Ok(Self { psnr, frames, bytes })
    }

    fn identical(&self) -> bool {
        self.frames.0 == self.frames.1 && self.psnr.iter().all(|psnr| psnr.is_infinite())
    }

    fn least(&self) -> f64 {
        self.psnr.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn passes(&self, least: Option<f64>) -> bool {
        match least {
            Some(least) => self.frames.0 == self.frames.1 && self.least() >= least,
            None => self.identical(),
        }
    }

    fn fault(&self, least: Option<f64>) -> String {
        let (one, other) = self.frames;
        match least {
            _ if one != other => format!("has {one} frames, and {other} when it is made again"),
            Some(least) => format!("the least distance is {:.2} dB and must be {least} dB", self.least()),
            None => "is another video when it is made again".to_owned(),
        }
    }

    fn json(&self, video: &Path) -> Value {
        // JSON has no infinity: identical frames have none
        let psnr: Vec<Option<f64>> = self.psnr.iter().map(|psnr| psnr.is_finite().then_some(*psnr)).collect();
        json!({
            "video": video.to_string_lossy(), "identical": self.identical(), "same_bytes": self.bytes,
            "frames": self.frames.0, "frames_again": self.frames.1, "psnr": psnr,
            "min_psnr": self.least().is_finite().then(|| self.least()),
        })
    }

    fn describe(&self) -> String {
        if self.identical() {
            let bytes = if self.bytes { ", and so is the file" } else { "" };
            return format!("identical: all {} frames are{bytes}\n", self.frames.0);
        }
        let other = self.psnr.iter().enumerate().filter(|(_, psnr)| psnr.is_finite());
        let lines = other.map(|(frame, psnr)| format!("frame {frame}: {psnr:.2} dB\n"));
        lines.collect::<String>() + &format!("least: {:.2} dB\n", self.least())
    }
}

/// The peak signal-to-noise ratio of two frames; minus infinity where their sizes differ.
fn distance(one: &Frame, other: &Frame) -> f64 {
    if (one.width, one.height) != (other.width, other.height) {
        return f64::NEG_INFINITY;
    }
    let square = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b)).powi(2);
    let sum: f64 = one.data.iter().zip(&other.data).map(square).sum();
    let mean = sum / one.data.len() as f64;
    if mean == 0.0 { f64::INFINITY } else { 10.0 * (255.0 * 255.0 / mean).log10() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(psnr: &[f64], again: usize) -> Comparison {
        Comparison { psnr: psnr.to_vec(), frames: (psnr.len(), again), bytes: false }
    }

    #[test]
    fn distances_are_decibels() {
        let frame = |value| Frame { width: 2, height: 1, data: vec![value; 6] };
        assert_eq!(distance(&frame(7), &frame(7)), f64::INFINITY);
        assert!((distance(&frame(0), &frame(255)) - 0.0).abs() < 1e-9);
        assert!((distance(&frame(100), &frame(101)) - 48.1308).abs() < 1e-3); // 20 log10(255)
        let other = Frame { width: 1, height: 2, data: vec![7; 6] };
        assert_eq!(distance(&frame(7), &other), f64::NEG_INFINITY);
    }

    #[test]
    fn a_check_passes_when_nothing_is_too_far() {
        let same = comparison(&[f64::INFINITY; 2], 2);
        assert!(same.identical() && same.passes(None) && same.passes(Some(60.0)));
        let near = comparison(&[f64::INFINITY, 45.0], 2);
        assert!(!near.passes(None) && near.passes(Some(40.0)) && !near.passes(Some(50.0)));
        let longer = comparison(&[f64::INFINITY; 2], 3);
        assert!(!longer.passes(None) && !longer.passes(Some(1.0)));
        assert!(longer.fault(None).contains("2 frames, and 3"), "{}", longer.fault(None));
        assert_eq!(near.describe(), "frame 1: 45.00 dB\nleast: 45.00 dB\n");
    }

    #[test]
    fn the_other_video_gets_a_name_beside() {
        assert_eq!(named(Path::new("a/ball.mp4")), Path::new("a/ball-rerun.mp4"));
        assert_eq!(named(Path::new("frames/")), Path::new("frames-rerun"));
    }
}
