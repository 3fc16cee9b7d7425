//! Attention maps of a run, as tensors, pictures and overlays (DiTCtrl, arXiv 2412.18597, figures 2 and 3;
//! spec/ditctrl.md 9).
//!
//! A map is a part of the attention probabilities, normalised over all keys, of the conditional half, averaged over heads and
//! over the layers from 0 to the one named (as the reference's), or of that layer alone. Unlike the reference only the rows
//! and columns asked for are computed, at the steps and layers asked for, and spatial and temporal maps are of the
//! conditional half as well. The run stops after the last step that is looked at, unless its frames are wanted.
//!
//! Where windows overlap, the maps of words are averaged with the weights of the blend, each window once. A window that
//! attends to keys of another is seen with its own keys.

use super::decode::{Decoder, decode};
use super::fade::Fades;
use super::frame_cache::FrameCache;
use super::latents::{Prepared, Recording, latents, noise};
use super::loaded::Loaded;
use super::segment::alone;
use super::text_to_video::plan;
use super::texts::encode;
use crate::job::{Job, MapView, Maps, TimelineRole};
use crate::models::architecture::Role;
use crate::nn::resample::resize_bilinear;
use crate::processors::attention_map::RecordedMap;
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use crate::timeline::{Blend, BlendMode};
use crate::video::{self, Folder, Frame, Output};
use crate::weights::write_described;
use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use colorous::{Gradient, MAGMA, VIRIDIS};
use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};
use serde_json::json;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// The raw maps.
pub const RAW: &str = "maps.safetensors";
/// Most columns of a picture; of more frames some are left out, evenly.
const COLUMNS: usize = 16;
/// Least width of a frame in a picture of words, and of a whole matrix, in pixels.
const CELL: usize = 96;
const MATRIX: usize = 512;

/// Runs a job as far as it takes and writes its maps into a folder; with `overlay` its frames as well, under the map of each
/// word. Returns the files.
pub fn attention_maps(
    job: &Job,
    maps: &Maps,
    folder: &Folder,
    overlay: bool,
    observer: &mut dyn Observer,
) -> Result<Vec<PathBuf>, Failure> {
    for warning in &job.warnings {
        observer.event(&Event::Warning(warning.clone()))?;
    }
    let raw = folder.place(RAW).code(Code::Usage)?;
    let overlays: Vec<PathBuf> = if overlay {
        maps.words.iter().map(|word| folder.place(&format!("overlay-{}.mp4", slug(word)))).collect::<Result<_>>()
    } else {
        Ok(Vec::new())
    }
    .code(Code::Usage)?;
    observer.event(&Event::Plan(Box::new(plan(job))))?;
    let noise = noise(job).code(Code::Usage)?;
    let texts = encode(job, observer)?;
    let mut loaded = Loaded::default();

    let until = if overlay { job.steps } else { maps.until(job.steps) };
    let recording = Recording { until, maps, kept: RefCell::default() };
    let prepared = Prepared { texts: &texts, noise: &noise, context: None };
    let denoised = latents(job, &mut loaded, &prepared, None, Some(&recording), observer)?;

    let kept = recording.kept.into_inner();
    let (mut tensors, mut files) = (Vec::new(), Vec::new());
    match maps.view {
        MapView::Words => {
            let lines = of_words(job, &kept)?;
            for ((step, layer), map) in &lines {
                tensors.push((format!("words/step-{step}/layer-{layer}"), map.clone()));
                let picture = grid(map, &maps.words)?;
                files.push(folder.png(&format!("words-step{step}-layer{layer}.png"), &picture).code(Code::Usage)?);
            }
            if overlay {
                let maps: Vec<&Tensor> = lines.values().collect();
                overlaid(job, &mut loaded, &alone(job, &denoised)?, &mean(&maps)?, &overlays, folder, observer)?;
                files.extend(overlays);
            }
        }
        view => {
            for (segment, kept) in kept.into_iter().enumerate() {
                for (window, kept) in of_windows(job, segment, kept) {
                    if maps.window.is_some_and(|place| place != (segment, window)) {
                        continue;
                    }
                    let windows = job.segments.iter().take(segment).map(|segment| segment.plan.windows.len());
                    let place = match view {
                        MapView::Spatial => String::new(),
                        _ => format!("window-{}", windows.sum::<usize>() + window),
                    };
                    let (step, layer) = (kept.step, kept.layer);
                    let name: Vec<String> = [view.to_string(), format!("step-{step}"), format!("layer-{layer}"), place]
                        .into_iter()
                        .filter(|part| !part.is_empty())
                        .collect();
                    let shown = match view {
                        // padding has no words
                        MapView::Text => {
                            let pieces = maps.pieces.iter().map(Vec::len).max().unwrap_or(1);
                            kept.map.narrow(0, 0, pieces)?.narrow(1, 0, pieces)?
                        }
                        _ => kept.map.clone(),
                    };
                    let file =
                        name.join("-").replace("step-", "step").replace("layer-", "layer").replace("window-", "window");
                    files.push(folder.png(&format!("{file}.png"), &matrix(&shown)?).code(Code::Usage)?);
                    tensors.push((name.join("/"), kept.map));
                }
            }
        }
    }
    let tensors: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, map)| (name.as_str(), map)).collect();
    write_described(&raw, &tensors, &description(job, maps)).code(Code::Failed)?;
    files.push(raw);
    for path in &files {
        observer.event(&Event::Saved { kind: "maps", path: path.clone() })?;
    }
    Ok(files)
}

/// What the raw file says of its tensors.
fn description(job: &Job, maps: &Maps) -> HashMap<String, String> {
    let prompts = job.controls.edit.as_ref().map_or(&job.prompts, |edit| &edit.prompts);
    let pieces = &maps.pieces[maps.pieces.len() - prompts.len()..];
    let mean = if maps.single_layer { "heads" } else { "heads and the layers from 0 to the one named" };
    HashMap::from([
        ("view".to_owned(), maps.view.to_string()),
        ("words".to_owned(), json!(maps.words).to_string()),
        ("steps".to_owned(), maps.steps.to_string()),
        ("layers".to_owned(), maps.layers.to_string()),
        ("mean_over".to_owned(), mean.to_owned()),
        ("prompts".to_owned(), json!(prompts).to_string()),
        ("pieces".to_owned(), json!(pieces).to_string()),
        ("seed".to_owned(), job.seed.to_string()),
        ("model".to_owned(), job.model.name().to_owned()),
    ])
}

/// The maps of the windows of a segment's output; of a window that went through a layer as source and as target the first.
fn of_windows(job: &Job, segment: usize, kept: Vec<RecordedMap>) -> Vec<(usize, RecordedMap)> {
    let timelines = job.timelines(&job.segments[segment]);
    let of_output =
        |kept: &RecordedMap| timelines.get(kept.branch.timeline).is_some_and(|of| of.role == TimelineRole::Output);
    let mut seen = std::collections::BTreeSet::new();
    kept.into_iter()
        .filter(of_output)
        .filter(|kept| seen.insert((kept.step, kept.layer, kept.branch.window, format!("{:?}", kept.view))))
        .map(|kept| (kept.branch.window, kept))
        .collect()
}

/// By step and layer: the maps of all words on the whole timeline, `[words, F, H, W]` by latent frames.
fn of_words(job: &Job, kept: &[Vec<RecordedMap>]) -> Result<BTreeMap<(usize, usize), Tensor>> {
    let patch_t = job.architecture.geometry().patch_t;
    let mut parts: BTreeMap<(usize, usize), Vec<Tensor>> = BTreeMap::new();
    for (index, (segment, kept)) in job.segments.iter().zip(kept).enumerate() {
        let mut blends: BTreeMap<(usize, usize), Blend> = BTreeMap::new();
        for (window, kept) in of_windows(job, index, kept.clone()) {
            let blend = blends.entry((kept.step, kept.layer));
            let blend = blend.or_insert_with(|| Blend::new(&segment.plan, BlendMode::Paper));
            let map = kept.map.transpose(0, 1)?; // [F, words, H, W] by patches in time
            let frames = map.dim(0)?;
            let map = map.unsqueeze(1)?.repeat((1, patch_t, 1, 1, 1))?.flatten(0, 1)?;
            anyhow::ensure!(map.dim(0)? == frames * patch_t, "maps of {frames} frames");
            blend.accumulate(window, &map)?;
        }
        for (place, mut blend) in blends {
            let line = blend.finish()?.narrow(0, segment.padding, segment.plan.keep - segment.padding)?;
            parts.entry(place).or_default().push(line);
        }
    }
    let joined =
        parts.into_iter().map(|(place, parts)| Ok((place, Tensor::cat(&parts, 0)?.transpose(0, 1)?.contiguous()?)));
    joined.collect()
}

/// The mean of maps `[words, F, H, W]`, on the finest of their grids.
fn mean(maps: &[&Tensor]) -> Result<Tensor> {
    let sizes = maps.iter().map(|map| Ok((map.dim(2)?, map.dim(3)?))).collect::<candle_core::Result<Vec<_>>>()?;
    let (height, width) = sizes.into_iter().max_by_key(|(height, width)| height * width).context("no map")?;
    let same = maps.iter().map(|map| resize_bilinear(map, height, width)).collect::<candle_core::Result<Vec<_>>>()?;
    Ok((Tensor::stack(&same, 0)?.sum(0)? / maps.len() as f64)?)
}

/// Words as rows, latent frames as columns, both named; each row on its own scale, from its least to its largest value.
fn grid<W: AsRef<str>>(map: &Tensor, named: &[W]) -> Result<Frame> {
    const GAP: usize = 4;
    let (words, frames, height, width) = map.dims4()?;
    let times = CELL.div_ceil(width);
    let columns = frames.min(COLUMNS);
    let (cell_w, cell_h) = (width * times + GAP, height * times + GAP);
    let mut picture = Frame { width: columns * cell_w - GAP, height: words * cell_h - GAP, data: Vec::new() };
    picture.data = vec![255; 3 * picture.width * picture.height];
    let frame_of = |column: usize| if columns == 1 { 0 } else { column * (frames - 1) / (columns - 1) };
    for word in 0..words {
        let values = unit(&map.get(word)?.flatten_all()?.to_vec1::<f32>()?);
        for column in 0..columns {
            let frame = frame_of(column);
            for y in 0..height * times {
                for x in 0..width * times {
                    let value = values[(frame * height + y / times) * width + x / times];
                    let at = (word * cell_h + y) * picture.width + column * cell_w + x;
                    picture.data[3 * at..3 * at + 3].copy_from_slice(&colour(MAGMA, value));
                }
            }
        }
    }
    if named.is_empty() {
        return Ok(picture);
    }
    let (left, top) =
        (named.iter().map(|word| label(word.as_ref()).len()).max().unwrap_or(0) * GLYPH + 2 * GAP, GLYPH + 2 * GAP);
    let mut sheet = Frame { width: left + picture.width, height: top + picture.height, data: Vec::new() };
    sheet.data = vec![255; 3 * sheet.width * sheet.height];
    for y in 0..picture.height {
        let at = 3 * ((top + y) * sheet.width + left);
        sheet.data[at..at + 3 * picture.width]
            .copy_from_slice(&picture.data[3 * y * picture.width..][..3 * picture.width]);
    }
    for (row, word) in named.iter().enumerate().take(words) {
        let y = top + row * cell_h + (cell_h - GAP).saturating_sub(GLYPH) / 2;
        write(&mut sheet, &label(word.as_ref()), GAP, y);
    }
    for column in 0..columns {
        write(&mut sheet, &label(&frame_of(column).to_string()), left + column * cell_w, GAP);
    }
    Ok(sheet)
}

/// Pixels of a letter of the font.
const GLYPH: usize = 8;

/// As much of a name as stands beside a picture.
fn label(text: &str) -> Vec<char> {
    const MOST: usize = 20;
    text.chars().take(MOST).collect()
}

/// Writes black letters; what the font does not have is left blank, what does not fit is left out.
fn write(sheet: &mut Frame, text: &[char], left: usize, top: usize) {
    for (index, &letter) in text.iter().enumerate() {
        let glyph = BASIC_FONTS.get(letter).or_else(|| LATIN_FONTS.get(letter)).unwrap_or([0; GLYPH]);
        for (y, row) in glyph.iter().enumerate() {
            for x in (0..GLYPH).filter(|x| row & (1 << x) != 0) {
                let (x, y) = (left + index * GLYPH + x, top + y);
                if x < sheet.width && y < sheet.height {
                    let at = 3 * (y * sheet.width + x);
                    sheet.data[at..at + 3].fill(0);
                }
            }
        }
    }
}

/// A matrix, queries as rows, on a scale from its least to its largest value.
fn matrix(map: &Tensor) -> Result<Frame> {
    let (rows, columns) = map.dims2()?;
    let times = MATRIX.div_ceil(columns);
    let values = unit(&map.contiguous()?.flatten_all()?.to_vec1::<f32>()?);
    let mut data = Vec::with_capacity(3 * rows * columns * times * times);
    for y in 0..rows * times {
        for x in 0..columns * times {
            data.extend(colour(VIRIDIS, values[y / times * columns + x / times]));
        }
    }
    Ok(Frame { width: columns * times, height: rows * times, data })
}

/// From least to largest value as 0 to 1; all 0 where they are one.
fn unit(values: &[f32]) -> Vec<f32> {
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let range = values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    values.iter().map(|value| if range > 0.0 { (value - least) / range } else { 0.0 }).collect()
}

fn colour(gradient: Gradient, value: f32) -> [u8; 3] {
    gradient.eval_continuous(f64::from(value.clamp(0.0, 1.0))).as_array()
}

/// The frames of the run under the map of each word: `maps` `[words, F, H, W]`, by latent frames.
fn overlaid(
    job: &Job,
    loaded: &mut Loaded,
    latents: &[Tensor],
    maps: &Tensor,
    paths: &[PathBuf],
    folder: &Folder,
    observer: &mut dyn Observer,
) -> Result<(), Failure> {
    observer.event(&Event::Phase {
        phase: Phase::Load,
        of: 0,
        what: job.architecture.part(Role::Autoencoder).into(),
    })?;
    let vae = loaded.decoder(job)?;
    let (_, _, height, width) = maps.dims4()?;
    let scaled: Vec<Vec<f32>> = (0..paths.len())
        .map(|word| Ok(unit(&maps.get(word)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)))
        .collect::<Result<_>>()?;
    let open = |path: &PathBuf| {
        let mut output = Output::new(path, job.width, job.height, job.output.fps)?;
        output.overwrite = folder.overwrites();
        video::open(&output)
    };
    let mut writers = paths.iter().map(open).collect::<Result<Vec<_>>>().code(Code::Encoder)?;
    let sinks = writers.iter_mut().map(|writer| move |frame: Frame| writer.write(frame));
    let mut sinks: Vec<_> = sinks.collect();
    let mut fades: Vec<Fades> = sinks.iter_mut().map(|sink| Fades::new(sink)).collect();
    let mut before = 0; // latent frames of earlier segments
    for (part, (latents, segment)) in latents.iter().zip(&job.segments).enumerate() {
        let next = job.segments.get(part + 1).map_or(0, |next| next.fade);
        fades.iter_mut().try_for_each(|fades| fades.begin(segment.fade, segment.frames, next))?;
        let mut index = 0;
        let latents = latents.to_device(&job.device)?;
        let mut sink = |frame: Frame| {
            let latent = before + job.rules.latent_frames(index + 1) - 1;
            index += 1;
            for (fades, values) in fades.iter_mut().zip(&scaled) {
                let map = values.get(latent * height * width..(latent + 1) * height * width);
                fades.write(under(&frame, map.context("a frame without a map")?, (height, width)))?;
            }
            Ok(())
        };
        let frames = (part, 0..segment.frames);
        decode(&Decoder::new(job, &*vae), &latents, frames, &mut FrameCache::off(), &mut sink, observer)?;
        before += segment.plan.keep - segment.padding;
    }
    drop(fades);
    drop(sinks);
    for writer in writers {
        writer.finish().code(Code::Encoder)?;
    }
    Ok(())
}

/// A frame under a map of 0 to 1, which hides up to 0.7 of it; between the middles of the map's places it is interpolated.
fn under(frame: &Frame, map: &[f32], (height, width): (usize, usize)) -> Frame {
    let place = |pixel: usize, pixels: usize, cells: usize| {
        let at = ((pixel as f32 + 0.5) * cells as f32 / pixels as f32 - 0.5).clamp(0.0, cells as f32 - 1.0);
        let low = at as usize;
        (low, (low + 1).min(cells - 1), at - low as f32)
    };
    let mut data = Vec::with_capacity(frame.data.len());
    for y in 0..frame.height {
        let (top, bottom, down) = place(y, frame.height, height);
        for x in 0..frame.width {
            let (left, right, across) = place(x, frame.width, width);
            let row = |y: usize| map[y * width + left] * (1.0 - across) + map[y * width + right] * across;
            let value = row(top) * (1.0 - down) + row(bottom) * down;
            let share = 0.7 * value;
            let at = 3 * (y * frame.width + x);
            let colours = frame.data[at..at + 3].iter().zip(colour(MAGMA, value));
            data.extend(
                colours.map(|(&pixel, map)| (f32::from(pixel) * (1.0 - share) + f32::from(map) * share).round() as u8),
            );
        }
    }
    Frame { width: frame.width, height: frame.height, data }
}

/// Words as part of a file name.
fn slug(words: &str) -> String {
    let dashed = words.chars().map(|c| if c.is_alphanumeric() { c } else { '-' });
    let slug: String = dashed.flat_map(char::to_lowercase).take(48).collect();
    slug.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn pictures_have_a_cell_for_each_word_and_frame() {
        let map = Tensor::arange(0f32, 2.0 * 3.0 * 2.0 * 4.0, &Device::Cpu).unwrap().reshape((2, 3, 2, 4)).unwrap();
        let picture = grid(&map, &[""; 0]).unwrap();
        assert_eq!((picture.width, picture.height), (3 * 96 + 8, 2 * 48 + 4));
        assert_eq!(picture.data.len(), 3 * picture.width * picture.height);
        let at = |x: usize, y: usize| &picture.data[3 * (y * picture.width + x)..][..3];
        // each row is on its own scale: least at its first place, largest at its last
        for row in [0, 52] {
            assert_eq!((at(0, row), at(295, row + 47)), (&colour(MAGMA, 0.0)[..], &colour(MAGMA, 1.0)[..]));
        }
        assert_eq!((at(97, 0), at(0, 49)), (&[255; 3][..], &[255; 3][..]), "gaps are white");
        let many = Tensor::zeros((1, 40, 1, 1), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(grid(&many, &[""; 0]).unwrap().width, 16 * 100 - 4);

        // the same picture beside its words and below its frames
        let sheet = grid(&map, &["ball", "a longer one"]).unwrap();
        let (left, top) = (12 * 8 + 8, 16);
        assert_eq!((sheet.width, sheet.height), (left + picture.width, top + picture.height));
        let dark = |columns: std::ops::Range<usize>, rows: std::ops::Range<usize>| {
            rows.flat_map(|y| columns.clone().map(move |x| (x, y)))
                .filter(|(x, y)| sheet.data[3 * (y * sheet.width + x)] == 0)
                .count()
        };
        for row in 0..2 {
            let y = top + row * 52;
            assert!(dark(0..left, y..y + 48) > 40, "the word of row {row}");
            let inner = &sheet.data[3 * (y * sheet.width + left)..][..3 * picture.width];
            assert_eq!(inner, &picture.data[3 * row * 52 * picture.width..][..3 * picture.width]);
        }
        for column in 0..3 {
            let x = left + column * 100;
            assert!(dark(x..x + 8, 0..top) > 5, "the number of frame {column}");
        }
        let square = matrix(&Tensor::eye(3, DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert_eq!((square.width, square.height, &square.data[..3]), (513, 513, &colour(VIRIDIS, 1.0)[..]));
    }

    #[test]
    fn a_map_covers_a_frame_where_it_is_high() {
        let frame = Frame { width: 4, height: 2, data: vec![200; 24] };
        let seen = under(&frame, &[0.0, 1.0], (1, 2));
        assert_eq!(&seen.data[..3], &[200; 3]);
        let full: Vec<u8> = colour(MAGMA, 1.0).iter().map(|&c| (60.0 + 0.7 * f32::from(c)).round() as u8).collect();
        assert_eq!(&seen.data[9..12], &full);
        assert_eq!(slug("Red ball / \u{e9}t\u{e9}"), "red-ball---\u{e9}t\u{e9}");
    }
}
