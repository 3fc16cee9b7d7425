//! `boxes`: where a subject is to be in each frame, as numbers, masks, or a video to look at.

use super::Report;
use crate::boxes::{Boxes, MOST_FRAMES, Rect, pixels, span, warnings};
use crate::job::BoxesAsked;
use crate::job::values::Size;
use crate::run::{Code, Event, Failure, WithCode, print};
use crate::video::{self, Folder, Format, Frame, Limits, Output, Rate};
use anyhow::{Context, Result};
use clap::builder::FalseyValueParser;
use serde_json::json;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  vidgen boxes path.json
  vidgen boxes preset:l --frames 24 -o overlay.mp4
  vidgen boxes --first-box 0.1,0.2,0.4,0.6 --last-box 0.6,0.3,0.9,0.7 -o masks/
  vidgen boxes path.json --over dog.mp4 -o check.mp4

Boxes are x0, y0, x1, y1 in units of the frame's sides. FILE is our own JSON, MotionBooth's, Peekaboo's or DreamVideo-Omni's, FreeTraj's \
text, what boxes and mask print with --json, a folder of masks, or preset:NAME. An output that is a directory gets a mask for each \
frame, any other a video with the boxes drawn. See docs/subject.md.";

/// Frames and their size where nothing says otherwise.
const FRAMES: usize = 16;
const SIZE: Size = Size { width: 448, height: 256 };
const FPS: u32 = 8;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Args {
    /// A file of boxes, a folder of masks, or preset:NAME
    #[arg(value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// The box of the first frame, x0,y0,x1,y1
    #[arg(long, value_name = "BOX", allow_hyphen_values = true)]
    first_box: Option<String>,
    /// The box of the last frame
    #[arg(long, value_name = "BOX", allow_hyphen_values = true)]
    last_box: Option<String>,
    /// The line that the first box's centre follows, x,y;x,y;..
    #[arg(long, value_name = "POINTS", allow_hyphen_values = true)]
    trajectory: Option<String>,
    /// Frames [default: 16, or those of --over]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Size of masks and of the video [default: 448x256, or that of --over]
    #[arg(long, value_name = "WxH")]
    size: Option<Size>,
    /// A video that the boxes are drawn on
    #[arg(long, value_name = "VIDEO")]
    over: Option<PathBuf>,
    /// A directory for masks (masks/), or a video with the boxes drawn
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Replace files that are there
    #[arg(short = 'y', long, value_parser = FalseyValueParser::new())]
    overwrite: bool,
}

/// Reads, tells, writes.
pub fn run(args: Args, report: &Report) -> Result<(), Failure> {
    let usage = |message: &str| Failure::message(Code::Usage, message);
    let asked = BoxesAsked {
        boxes: args.boxes.clone(),
        first_box: args.first_box.clone(),
        last_box: args.last_box.clone(),
        trajectory: args.trajectory.clone(),
    };
    if asked.boxes.is_none() && asked.first_box.is_none() {
        return Err(usage("which boxes? give a FILE, preset:NAME, or --first-box x0,y0,x1,y1"));
    }
    if args.over.is_some() && args.output.is_none() {
        return Err(usage("--over: where is the video to go? give -o overlay.mp4"));
    }
    if args.over.is_some() && args.size.is_some() {
        return Err(usage("--size has no effect with --over, which has its own: leave it out"));
    }
    let shown = args.over.as_deref().map(frames_of).transpose()?;
    let frames = match (args.frames, &shown) {
        (Some(frames), _) => frames,
        (None, Some(shown)) => shown.len(),
        (None, None) => FRAMES,
    };
    if !(1..=MOST_FRAMES).contains(&frames) {
        return Err(usage(&format!("--frames: give 1 to {MOST_FRAMES}")));
    }
    let Some(boxes) = asked.read(frames)? else { return Err(usage("no boxes")) };
    let mut observer = report.observer()?;
    for warning in warnings(&boxes) {
        observer.event(&Event::Warning(warning))?;
    }
    let size = args.size.unwrap_or(SIZE);
    let written = match &args.output {
        None => Vec::new(),
        Some(path) if Format::from_path(path).code(Code::Usage)? == Format::PngDir => {
            if shown.is_some() {
                return Err(usage("--over: masks have nothing to be drawn on: give a video for -o, as overlay.mp4"));
            }
            masks(&boxes, size, path, args.overwrite).code(Code::Usage)?
        }
        Some(path) => vec![overlay(&boxes, size, shown, path, args.overwrite).code(Code::Usage)?],
    };
    if report.json {
        return print(&format!("{}\n", json!({"frames": boxes.len(), "boxes": boxes})));
    }
    let lines = if written.is_empty() { boxes.iter().enumerate().map(line).collect() } else { written };
    print(&(lines.join("\n") + "\n"))
}

fn line((index, rect): (usize, &Option<Rect>)) -> String {
    match rect {
        Some([x0, y0, x1, y1]) => format!("{index:>4}  {x0:.4} {y0:.4} {x1:.4} {y1:.4}"),
        None => format!("{index:>4}  -"),
    }
}

fn frames_of(path: &Path) -> Result<Vec<Frame>, Failure> {
    let read = || video::read(path, &Limits { max_frames: 10_000, ..Limits::default() })?.collect::<Result<Vec<_>>>();
    let frames: Vec<Frame> = read().context("--over").code(Code::Usage)?;
    if frames.is_empty() {
        return Err(Failure::message(Code::Usage, format!("--over {}: no frames in it", path.display())));
    }
    Ok(frames)
}

fn masks(boxes: &Boxes, size: Size, path: &Path, overwrite: bool) -> Result<Vec<String>> {
    let folder = Folder::open(path, overwrite)?;
    let (width, height) = (size.width, size.height);
    let one = |(index, rect): (usize, &Option<Rect>)| {
        let data = pixels(rect.as_ref(), height, width).into_iter().flat_map(|value| [value; 3]).collect();
        let path = folder.png(&format!("{index:05}.png"), &Frame { width, height, data })?;
        Ok(path.display().to_string())
    };
    boxes.iter().enumerate().map(one).collect()
}

/// A video with the boxes drawn: on a given one, whose frames past the last box are left as they are, or on paper.
fn overlay(boxes: &Boxes, size: Size, shown: Option<Vec<Frame>>, path: &Path, overwrite: bool) -> Result<String> {
    let paper = |_| Frame { width: size.width, height: size.height, data: vec![245; 3 * size.width * size.height] };
    let frames = shown.unwrap_or_else(|| boxes.iter().map(paper).collect());
    let (width, height) = (frames[0].width, frames[0].height);
    let mut writer = video::open(&Output { overwrite, ..Output::new(path, width, height, Rate::new(FPS, 1)?)? })?;
    for (index, mut frame) in frames.into_iter().enumerate() {
        if let Some(Some(rect)) = boxes.get(index) {
            draw(&mut frame, rect);
        }
        writer.write(frame)?;
    }
    Ok(writer.finish()?.path.display().to_string())
}

const EDGE: [u8; 3] = [230, 60, 30];

/// The outline of a box, two pixels wide.
fn draw(frame: &mut Frame, &[x0, y0, x1, y1]: &Rect) {
    const WIDE: usize = 2;
    let (across, down) = (span(x0, x1, frame.width), span(y0, y1, frame.height));
    for y in down.clone() {
        for x in across.clone() {
            let near = |at: usize, range: &std::ops::Range<usize>| at < range.start + WIDE || at + WIDE >= range.end;
            if near(x, &across) || near(y, &down) {
                frame.data[3 * (y * frame.width + x)..][..3].copy_from_slice(&EDGE);
            }
        }
    }
}
