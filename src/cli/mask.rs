//! `mask`: the subject of a video, as masks and boxes.

use super::Report;
use super::settle::{set_threads, start};
use crate::job::{self, values::DeviceSpec};
use crate::run::{Code, Event, Failure, Phase, WithCode, print};
use crate::saliency::{Bounds, NETWORK, Saliency, bounds, smoothed};
use crate::video::{self, Fault, Folder, Limits};
use anyhow::Context;
use clap::builder::FalseyValueParser;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  vidgen mask ball.mp4 -o masks/
  vidgen mask cat.jpg -o cat/ --overlay
  vidgen mask ball.mp4 --json > boxes.json          (boxes only: nothing is written)

Writes a grey picture for each frame, 00000.png and so on, white where the subject is. What the subject is, a network inside the \
binary says (U2-Netp): whatever stands out most. In a frame where nothing does, the mask is black and the box null. Boxes are \
x0, y0, x1, y1 in units of the frame's sides. See docs/mask.md.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Args {
    /// A video (.mp4 .webm .gif .y4m), a directory of pictures, or a picture
    #[arg(value_name = "VIDEO|IMAGE")]
    file: PathBuf,
    /// Directory for the masks [default: masks/; with --json none]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The frames themselves as well, dark outside the mask: overlay-00000.png and so on
    #[arg(long, value_parser = FalseyValueParser::new())]
    overlay: bool,
    /// Replace files that are there
    #[arg(short = 'y', long, value_parser = FalseyValueParser::new())]
    overwrite: bool,
    /// Where to compute: auto, cpu, cuda, cuda:N or metal
    #[arg(short, long, value_name = "NAME", default_value = "auto")]
    device: DeviceSpec,
    /// CPU threads [default: physical cores]
    #[arg(short = 'j', long, value_name = "N", short_alias = 't')]
    threads: Option<usize>,
}

fn of_video(error: anyhow::Error) -> Failure {
    let code = match video::fault(&error) {
        Some(Fault::Input | Fault::Usage) => Code::Usage,
        _ => Code::Failed,
    };
    Err::<(), _>(error).code(code).err().unwrap_or_else(|| Failure::message(code, "no error"))
}

/// Reads, looks, writes.
pub fn run(args: Args, report: &Report) -> Result<(), Failure> {
    if args.threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
        return Err(Failure::message(Code::Usage, "--threads: give 1 to 1024"));
    }
    if args.overlay && report.json && args.output.is_none() {
        return Err(Failure::message(Code::Usage, "--overlay has no effect with --json and without --output"));
    }
    set_threads(args.threads);
    start(report)?;
    let device = job::device(args.device).code(Code::Usage)?;
    let frames = video::read(&args.file, &Limits::default()).map_err(of_video)?;
    let (width, height, count) = (frames.width(), frames.height(), frames.frames());
    let output = args.output.or_else(|| (!report.json).then(|| PathBuf::from("masks/")));
    let folder = output.map(|path| Folder::open(&path, args.overwrite)).transpose().code(Code::Usage)?;
    let saliency = Saliency::embedded(&device)?;
    let mut observer = report.observer()?;
    let of = usize::try_from(count.unwrap_or(0)).unwrap_or(0);
    observer.event(&Event::Phase { phase: Phase::Decode, of, what: "masks".to_owned() })?;
    let (mut boxes, mut coverage, mut files) = (Vec::new(), Vec::new(), Vec::new());
    let mut looking = Duration::ZERO;
    for (index, frame) in frames.enumerate() {
        let frame = frame.map_err(of_video)?;
        let begun = Instant::now();
        let mask = saliency.mask(&frame).with_context(|| format!("frame {index}"))?;
        looking += begun.elapsed();
        if let Some(folder) = &folder {
            files.push(folder.png(&format!("{index:05}.png"), &mask.picture()).map_err(of_video)?);
            if args.overlay {
                files.push(folder.png(&format!("overlay-{index:05}.png"), &mask.over(&frame)).map_err(of_video)?);
            }
        }
        boxes.push(bounds(&mask));
        coverage.push(mask.coverage());
        observer.event(&Event::Chunk { phase: Phase::Decode, index, of: of.max(index + 1) })?;
    }
    if boxes.is_empty() {
        return Err(Failure::message(Code::Usage, format!("{}: no frames in it", args.file.display())));
    }
    let boxes: Vec<Option<Bounds>> = smoothed(&boxes);
    let empty = boxes.iter().filter(|bounds| bounds.is_none()).count();
    if empty > 0 {
        let places =
            if empty == boxes.len() { "any frame".to_owned() } else { format!("{empty} of {} frames", boxes.len()) };
        observer.event(&Event::Warning(format!("nothing stands out in {places}: their masks are black")))?;
    }
    let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    if report.json {
        let object = json!({
            "frames": boxes.len(), "size": [width, height], "boxes": boxes, "coverage": coverage,
            "network": NETWORK, "seconds_per_frame": looking.as_secs_f64() / boxes.len() as f64, "files": files,
        });
        return print(&format!("{object}\n"));
    }
    print(&(files.join("\n") + "\n"))
}
