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

use super::control;
use super::decode::{Decoder, decode};
use super::draws::Draws;
use super::extend;
use super::fade::Fades;
use super::footage;
use super::frame_cache::FrameCache;
use super::given;
use super::latents::{Prepared, Recording, latents, noise};
use super::loaded::Loaded;
use super::map_pictures::{Axis, badge, colour, grid, matrix, unit};
use super::placed;
use super::segment::alone;
use super::text_to_video::plan;
use super::texts::encode;
use super::word_maps::{of_windows, of_words};
use crate::job::{Job, MapView, Maps, Stage};
use crate::models::architecture::Role;
use crate::nn::resample::resize_bilinear;
use crate::run::{Code, Event, Failure, Observer, Phase, WithCode};
use crate::timeline::TextMix;
use crate::video::{self, Folder, Frame, Output};
use crate::weights::write_described;
use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use colorous::MAGMA;
use serde_json::json;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;

/// The raw maps.
pub const RAW: &str = "maps.safetensors";

/// Runs the first stage of a job as far as it takes and writes its maps into a folder; with `overlay` its frames as well, under the map of each
/// word. Returns the files.
pub fn attention_maps(
    job: &Job,
    maps: &Maps,
    folder: &Folder,
    overlay: bool,
    observer: &mut dyn Observer,
) -> Result<Vec<PathBuf>, Failure> {
    let stage = job.first();
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
    let noise = noise(stage, job.seed).code(Code::Usage)?;
    let texts = encode(stage, &job.machine, observer)?;
    let mut loaded = Loaded::default();

    let until = if overlay { stage.sampler.steps } else { maps.until(stage.sampler.steps) };
    let recording = Recording { until, maps, kept: RefCell::default() };
    let concat = match given::beside(stage, &noise, observer)? {
        Some(beside) => Some(beside),
        None => footage::pictures(stage, observer)?,
    };
    let given = given::latents(stage, &[], observer)?;
    let draws = Draws::new(stage, job.seed).code(Code::Usage)?;
    let refined = footage::refined(stage, observer)?.map(|latents| vec![latents]);
    let pictures = control::pictures(stage, observer)?;
    let context = extend::first_frame(stage, observer)?;
    let subject = placed::latents(stage, observer)?;
    let prepared = Prepared {
        texts: &texts,
        noise: &noise,
        draws: draws.as_ref(),
        context: context.as_ref(),
        concat: concat.as_ref(),
        given: given.as_ref(),
        pictures: &pictures,
        subject: subject.as_ref(),
        refined: refined.as_deref(),
        measured: None,
    };
    let denoised = latents(job, stage, &mut loaded, &prepared, None, Some(&recording), observer)?;

    let kept = recording.kept.into_inner();
    let (mut tensors, mut files) = (Vec::new(), Vec::new());
    match maps.view {
        MapView::Words => {
            let lines = of_words(stage, &kept)?;
            for ((step, layer), map) in &lines {
                tensors.push((format!("words/step-{step}/layer-{layer}"), map.clone()));
                let picture = grid(map, &maps.words)?;
                files.push(folder.png(&format!("words-step{step}-layer{layer}.png"), &picture).code(Code::Usage)?);
            }
            if overlay {
                let all: Vec<&Tensor> = lines.values().collect();
                let named: Vec<_> = maps.words.iter().zip(&overlays).collect();
                overlaid(job, &mut loaded, &alone(stage, &denoised)?, &mean(&all)?, &named, folder, observer)?;
                files.extend(overlays);
            }
        }
        view => {
            for (segment, kept) in kept.into_iter().enumerate() {
                for (window, kept) in of_windows(stage, segment, kept) {
                    if maps.window.is_some_and(|place| place != (segment, window)) {
                        continue;
                    }
                    let windows = stage.segments.iter().take(segment).map(|segment| segment.plan.windows.len());
                    let place = match view {
                        MapView::Spatial => String::new(),
                        _ => format!("window-{}", windows.sum::<usize>() + window),
                    };
                    let (step, layer) = (kept.step, kept.layer);
                    let name: Vec<String> = [view.to_string(), format!("step-{step}"), format!("layer-{layer}"), place]
                        .into_iter()
                        .filter(|part| !part.is_empty())
                        .collect();
                    let axis = axis(stage, maps, (segment, window));
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
                    files.push(folder.png(&format!("{file}.png"), &matrix(&shown, &axis)?).code(Code::Usage)?);
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

/// What the rows and columns of a window's map are.
fn axis(stage: &Stage, maps: &Maps, (segment, window): (usize, usize)) -> Axis {
    let plan = &stage.segments[segment].plan;
    let window = &plan.windows[window];
    match maps.view {
        MapView::Text => {
            let edited = stage.controls.edit.as_ref().map_or(0, |_| stage.text.prompts.len());
            // a text between two prompts has no words
            let names = match plan.texts.get(window.text) {
                Some(TextMix::Prompt(prompt)) => maps.pieces.get(edited + prompt).cloned(),
                _ => None,
            };
            Axis { of: "tokens", names: names.unwrap_or_default() }
        }
        MapView::Temporal => {
            let frames = (0..window.len / stage.model.architecture.geometry().patch_t).map(|frame| frame.to_string());
            Axis { of: "latent frames of the window", names: frames.collect() }
        }
        _ => {
            let patch = stage.model.architecture.geometry().patch;
            let (rows, columns) = (stage.size.latents.1 / patch, stage.size.latents.2 / patch);
            let places = (0..rows * columns).map(|place| format!("{},{}", place % columns, place / columns));
            Axis { of: "places of the frame (x,y)", names: places.collect() }
        }
    }
}

/// What the raw file says of its tensors.
fn description(job: &Job, maps: &Maps) -> HashMap<String, String> {
    let stage = job.first();
    // of an edit its own; with relay those of the scenes, and those that they share
    let first = stage.controls.edit.as_ref().map_or(0, |_| maps.pieces.len() - stage.text.prompts.len());
    let (prompts, pieces) = (stage.texts().skip(first).collect::<Vec<_>>(), &maps.pieces[first..]);
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
        ("model".to_owned(), stage.model.folder.name().to_owned()),
    ])
}

/// The mean of maps `[words, F, H, W]`, on the finest of their grids.
fn mean(maps: &[&Tensor]) -> Result<Tensor> {
    let sizes = maps.iter().map(|map| Ok((map.dim(2)?, map.dim(3)?))).collect::<candle_core::Result<Vec<_>>>()?;
    let (height, width) = sizes.into_iter().max_by_key(|(height, width)| height * width).context("no map")?;
    let same = maps.iter().map(|map| resize_bilinear(map, height, width)).collect::<candle_core::Result<Vec<_>>>()?;
    Ok((Tensor::stack(&same, 0)?.sum(0)? / maps.len() as f64)?)
}

/// The frames of the run under the map of each word, which is named: `maps` `[words, F, H, W]`, by latent frames.
fn overlaid(
    job: &Job,
    loaded: &mut Loaded,
    latents: &[Tensor],
    maps: &Tensor,
    files: &[(&String, &PathBuf)],
    folder: &Folder,
    observer: &mut dyn Observer,
) -> Result<(), Failure> {
    let stage = job.first();
    observer.event(&Event::Phase {
        phase: Phase::Load,
        of: 0,
        what: stage.model.architecture.part(Role::Autoencoder).into(),
    })?;
    let vae = loaded.decoder(stage)?;
    let (_, _, height, width) = maps.dims4()?;
    let scaled: Vec<Vec<f32>> = (0..files.len())
        .map(|word| Ok(unit(&maps.get(word)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)))
        .collect::<Result<_>>()?;
    let open = |path: &PathBuf| {
        let mut output = Output::new(path, stage.size.width, stage.size.height, job.output.video.fps)?;
        output.overwrite = folder.overwrites();
        video::open(&output)
    };
    let mut writers = files.iter().map(|(_, path)| open(path)).collect::<Result<Vec<_>>>().code(Code::Encoder)?;
    let sinks = writers.iter_mut().map(|writer| move |frame: Frame| writer.write(frame));
    let mut sinks: Vec<_> = sinks.collect();
    let mut fades: Vec<Fades> = sinks.iter_mut().map(|sink| Fades::new(sink)).collect();
    let mut before = 0; // latent frames of earlier segments
    for (part, (latents, segment)) in latents.iter().zip(&stage.segments).enumerate() {
        let next = stage.segments.get(part + 1).map_or(0, |next| next.fade);
        fades.iter_mut().try_for_each(|fades| fades.begin(segment.fade, segment.frames, next))?;
        let mut index = 0;
        let latents = latents.to_device(&stage.compute.device)?;
        let mut sink = |frame: Frame| {
            let latent = before + stage.rules.latent_frames(index + 1) - 1;
            index += 1;
            for ((fades, values), (word, _)) in fades.iter_mut().zip(&scaled).zip(files) {
                let map = values.get(latent * height * width..(latent + 1) * height * width);
                let mut seen = under(&frame, map.context("a frame without a map")?, (height, width));
                badge(&mut seen, word);
                fades.write(seen)?;
            }
            Ok(())
        };
        let frames = (part, 0..segment.frames);
        decode(&Decoder::new(stage, &*vae), &latents, frames, &mut FrameCache::off(), &mut sink, observer)?;
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
