//! The record of a job: every effective setting under the name of its flag.

use crate::job::{Given, Job, Segment, UncondText};
use crate::run::Manifest;
use crate::run::manifest::{ModelRecord, OutputRecord, SCHEMA};
use crate::timeline::TextMix;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What decides the frames of a job. Reads all weights once, for their hashes.
pub fn record(job: &Job) -> Result<Manifest> {
    let edit = job.controls.edit.as_ref();
    Ok(Manifest {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: if edit.is_some() { "edit" } else { job.command.name() }.to_owned(),
        prompts: edit.map_or(&job.prompts, |edit| &edit.prompts).clone(),
        seed: job.seed,
        model: ModelRecord {
            name: job.model.name().to_owned(),
            revision: job.model.revision().map(str::to_owned),
            class: job.model.class().to_owned(),
            hashes: hashes(job)?,
        },
        settings: settings(job),
        request: job.request.of_frames().json()?,
        output: OutputRecord {
            codec: job.codec.clone(),
            pix_fmt: job.output.pix_fmt.map(|format| format.to_string()),
            crf: job.output.crf,
        },
        run: None,
    })
}

/// blake3 of the weights by part: those that every run needs.
pub fn hashes(job: &Job) -> Result<BTreeMap<String, String>> {
    let parts = job.model.family().weighted().filter(|part| part.required).map(|part| part.name);
    parts.map(|part| Ok((part.to_owned(), job.model.part(part)?.hash()?))).collect()
}

fn settings(job: &Job) -> Map<String, Value> {
    let (negative_prompt, uncond) = match &job.uncond {
        UncondText::Zeros => (Value::Null, "zeros"),
        UncondText::Text(text) if text.is_empty() => (Value::Null, "empty"),
        UncondText::Text(text) => (json!(text), "text"),
    };
    let windows: Vec<Value> = job
        .segments
        .iter()
        .map(|segment| segment.plan.windows.iter().map(|w| json!([w.start, w.len, w.text])).collect())
        .collect();
    let joined = |segment: &Segment| segment.plan.windows.iter().map(|window| window.joined).collect();
    let joined: Vec<Vec<bool>> = job.segments.iter().map(joined).collect();
    // a prompt, or from one to another with the weight of that
    let text = |text: &TextMix| match *text {
        TextMix::Prompt(prompt) => json!(prompt),
        TextMix::Between { from, to, weight } => json!([from, to, weight]),
    };
    let texts: Vec<Vec<Value>> =
        job.segments.iter().map(|segment| segment.plan.texts.iter().map(text).collect()).collect();
    // the subject has its own entry, by prompt
    let attn_proc: Vec<String> = job.controls.specs.iter().map(ToString::to_string).collect();
    let settings = json!({
        "width": job.width,
        "height": job.height,
        "frames": job.frames,
        "fps": job.output.fps.to_string(),
        "recipe": job.recipe,
        "steps": job.steps,
        "guidance_scale": job.guidance.to_string(),
        "negative_prompt": negative_prompt,
        "uncond": uncond,
        "scheduler": job.scheduler.to_string(),
        "schedule": job.table.to_string(),
        "shift": job.schedule.snr_shift_scale,
        "eta": job.eta,
        "transition": job.rules.transition.to_string(),
        "overlap": job.rules.overlap,
        "transition_windows": job.rules.transition_windows,
        "hold": job.rules.hold,
        "blend": job.blend.to_string(),
        "attn_proc": attn_proc,
        "subject": job.controls.subject.as_ref().map(|subject| &subject.words),
        "mask_threshold": job.controls.subject.as_ref().map(|subject| subject.threshold),
        "joined": joined,
        "fades": job.segments.iter().map(|segment| segment.fade).collect::<Vec<_>>(),
        "latent_frames": job.segments.iter().map(|segment| segment.plan.frames).collect::<Vec<_>>(),
        "windows": windows,
        "texts": texts,
        "segment_frames": job.segments.iter().map(|segment| segment.frames).collect::<Vec<_>>(),
        "padding": job.segments.iter().map(|segment| segment.padding).collect::<Vec<_>>(),
        "context_frames": job.segments.iter().map(|segment| segment.context).collect::<Vec<_>>(),
        "given_frames": job.given.as_ref().map_or(0, Given::kept),
        "temporal_ratio": job.rules.time.ratio,
        "device": job.device_name(),
        "dtype": job.dtype.as_str(),
        "text_dtype": job.text_dtype.as_str(),
        "vae_dtype": job.vae_dtype.as_str(),
        "attention": job.attention.name(),
        "threads": job.threads,
        "vae_chunk": job.decode.chunk,
        "vae_tile_size": job.decode.tile.as_ref().map(|tile| format!("{}x{}", tile.sample_width, tile.sample_height)),
        "init_noise": job.init_noise.is_some(),
    });
    let mut settings = match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    if let Some(edit) = &job.controls.edit {
        let changes = &edit.changes;
        let written = |items: Vec<String>| if items.is_empty() { Value::Null } else { json!(items) };
        let reading = &edit.reading;
        settings.extend([
            ("swap".to_owned(), written(changes.swaps().iter().map(ToString::to_string).collect())),
            ("reweight".to_owned(), written(changes.reweightings().iter().map(ToString::to_string).collect())),
            ("reads_source".to_owned(), json!(format!("layers={},steps={}", reading.layers, reading.steps))),
            ("source_prompts".to_owned(), json!(job.prompts)),
            ("side_by_side".to_owned(), json!(changes.side_by_side)),
        ]);
    }
    settings
}
