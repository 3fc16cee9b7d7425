//! The record of a job: every effective setting under the name of its flag.

use crate::job::values::Interpolate;
use crate::job::{
    Anchor, ControlInput, ControlKind, Footage, Foreground, FreeNoise, GivenFrom, GuidanceForm, GuidanceMode, Instruct,
    Job, Placed, Renorm, Segment, SourceVideo, Stage, Streaming, UncondText, ZeroShot,
};
use crate::models::architecture::Role;
use crate::run::Manifest;
use crate::run::directory::file_hash;
use crate::run::manifest::{ModelRecord, OutputRecord, SCHEMA};
use crate::timeline::TextMix;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// What decides the frames of a job. Reads all weights once, for their hashes.
pub fn record(job: &Job) -> Result<Manifest> {
    let stage = job.first();
    let edit = stage.controls.edit.is_some();
    Ok(Manifest {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: if edit { "edit" } else { job.command.name() }.to_owned(),
        prompts: stage.prompts().to_vec(),
        seed: job.seed,
        model: ModelRecord {
            name: stage.model.folder.name().to_owned(),
            revision: stage.model.folder.revision().map(str::to_owned),
            class: stage.model.folder.class().to_owned(),
            hashes: hashes(stage)?,
        },
        settings: settings(job)?,
        request: job.request.of_frames().json()?,
        output: OutputRecord {
            codec: job.output.codec.clone(),
            pix_fmt: job.output.video.pix_fmt.map(|format| format.to_string()),
            crf: job.output.video.crf,
        },
        run: None,
    })
}

/// blake3 of the weights by part: those that every run needs, and those of control networks.
pub fn hashes(stage: &Stage) -> Result<BTreeMap<String, String>> {
    // nobody needs the network of the first chunk where a video is continued
    let first = stage.method.streaming.as_ref().is_none_or(|streaming| streaming.first.is_some());
    let parts = stage.model.folder.family().weighted().filter(|part| part.required);
    let parts = parts.filter(|part| first || part.role != Role::FirstDenoiser).map(|part| part.name);
    let own = parts.map(|part| Ok((part.to_owned(), stage.model.folder.part(part)?.hash()?)));
    let controls = stage.method.control_inputs.iter().enumerate().map(|(index, input)| {
        let name = if index == 0 { CONTROLNET.to_owned() } else { format!("{CONTROLNET}_{index}") };
        Ok((name, input.model.part.hash()?))
    });
    let placed = placed_parts(stage).into_iter().map(|role| {
        let name = stage.model.architecture.part(role);
        Ok((name.to_owned(), stage.model.part(role)?.hash()?))
    });
    own.chain(controls).chain(placed).collect()
}

/// The parts that a subject and its boxes need.
fn placed_parts(stage: &Stage) -> Vec<Role> {
    let Some(placed) = &stage.method.placed else { return Vec::new() };
    let looks = placed.picture.is_some().then_some(Role::Reference);
    let boxed = placed.boxes.is_some().then_some([Role::BoxEncoder, Role::BoxControl]);
    looks.into_iter().chain(boxed.into_iter().flatten()).collect()
}

/// What control networks are called in records: diffusers' name of such a part.
pub const CONTROLNET: &str = "controlnet";

fn settings(job: &Job) -> Result<Map<String, Value>> {
    let (stage, size) = (job.first(), job.last().size);
    let (negative_prompt, uncond) = match &stage.text.uncond {
        UncondText::Zeros => (Value::Null, "zeros"),
        UncondText::Text(text) if text.is_empty() => (Value::Null, "empty"),
        UncondText::Text(text) => (json!(text), "text"),
    };
    let windows: Vec<Value> = stage
        .segments
        .iter()
        .map(|segment| segment.plan.windows.iter().map(|w| json!([w.start, w.len, w.text])).collect())
        .collect();
    let joined = |segment: &Segment| segment.plan.windows.iter().map(|window| window.joined).collect();
    let joined: Vec<Vec<bool>> = stage.segments.iter().map(joined).collect();
    // a prompt, or from one to another with the weight of that
    let text = |text: &TextMix| match *text {
        TextMix::Prompt(prompt) => json!(prompt),
        TextMix::Between { from, to, weight } => json!([from, to, weight]),
    };
    let texts: Vec<Vec<Value>> =
        stage.segments.iter().map(|segment| segment.plan.texts.iter().map(text).collect()).collect();
    // the subject has its own entry, by prompt
    let attn_proc: Vec<String> = stage.controls.specs.iter().map(ToString::to_string).collect();
    let settings = json!({
        "width": size.width,
        "height": size.height,
        "frames": job.output.frames(stage.frames()),
        "fps": job.output.video.fps.to_string(),
        "interpolate": job.output.interpolate.map(Interpolate::factor),
        "recipe": stage.model.recipe,
        "steps": stage.sampler.steps,
        "guidance_scale": stage.guidance.to_string(),
        "negative_prompt": negative_prompt,
        "uncond": uncond,
        "scheduler": stage.sampler.kind.to_string(),
        "schedule": stage.sampler.table.to_string(),
        "shift": stage.sampler.schedule.snr_shift_scale,
        "eta": stage.sampler.eta,
        "transition": stage.rules.transition.to_string(),
        "overlap": stage.rules.overlap,
        "transition_windows": stage.rules.transition_windows,
        "hold": stage.rules.hold,
        "blend": stage.rules.blend.to_string(),
        "attn_proc": attn_proc,
        "subject": stage.controls.subject.as_ref().map(|subject| &subject.words),
        "mask_threshold": stage.controls.subject.as_ref().map(|subject| subject.threshold),
        "joined": joined,
        "fades": stage.segments.iter().map(|segment| segment.fade).collect::<Vec<_>>(),
        "latent_frames": stage.segments.iter().map(|segment| segment.plan.frames).collect::<Vec<_>>(),
        "windows": windows,
        "texts": texts,
        "segment_frames": stage.segments.iter().map(|segment| segment.frames).collect::<Vec<_>>(),
        "padding": stage.segments.iter().map(|segment| segment.padding).collect::<Vec<_>>(),
        "context_frames": stage.segments.iter().map(|segment| segment.context).collect::<Vec<_>>(),
        "given_frames": stage.input.source_video.as_ref().map_or(0, SourceVideo::kept),
        "temporal_ratio": stage.rules.time.ratio,
        "device": stage.compute.device_name(),
        "dtype": stage.compute.dtype.as_str(),
        "text_dtype": stage.compute.text_dtype.as_str(),
        "vae_dtype": stage.compute.vae_dtype.as_str(),
        "attention": stage.compute.attention.name(),
        "threads": job.machine.threads,
        "vae_chunk": stage.decode.chunk,
        "vae_tile_size": stage.decode.tile.as_ref().map(|tile| format!("{}x{}", tile.sample_width, tile.sample_height)),
        "init_noise": stage.input.noise.is_some(),
    });
    let mut settings = match settings {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    if let Some(edit) = &stage.controls.edit {
        let changes = &edit.changes;
        let written = |items: Vec<String>| if items.is_empty() { Value::Null } else { json!(items) };
        let reading = &edit.reading;
        settings.extend([
            ("swap".to_owned(), written(changes.swaps().iter().map(ToString::to_string).collect())),
            ("reweight".to_owned(), written(changes.reweightings().iter().map(ToString::to_string).collect())),
            ("reads_source".to_owned(), json!(format!("layers={},steps={}", reading.layers, reading.steps))),
            ("source_prompts".to_owned(), json!(stage.text.prompts)),
            ("side_by_side".to_owned(), json!(changes.side_by_side)),
        ]);
    }
    settings.extend(of_method(stage)?);
    if let Some(long) = stage.model.long {
        settings.insert("long".to_owned(), json!(long.to_string()));
    }
    if let Some(cache) = &stage.cache {
        let computed: Vec<usize> = (0..cache.computed.len()).filter(|&step| cache.computed[step]).collect();
        settings.insert("cache".to_owned(), json!({ "method": cache.method.to_string(), "computed_steps": computed }));
    }
    if !stage.text.shared.is_empty() {
        settings.insert("relay".to_owned(), relay(stage));
    }
    if !stage.model.folder.loras().is_empty() {
        settings.insert("lora".to_owned(), json!(stage.model.folder.loras()));
    }
    for stage in job.stages[1..].iter().filter(|stage| stage.input.strength.is_some()) {
        settings.insert("enhance".to_owned(), enhancing(stage)?);
    }
    Ok(settings)
}

/// The texts that scenes share, which are prompts behind those of the scenes, and when each scene is seen.
fn relay(stage: &Stage) -> Value {
    let texts = stage.text.shared.iter().map(|shared| {
        json!({ "text": shared.text, "scenes": shared.scenes.iter().map(|(scene, _)| scene).collect::<Vec<_>>() })
    });
    let segments = stage.segments.iter().enumerate();
    let times = segments.flat_map(|(index, segment)| {
        segment.relay.iter().flat_map(move |relay| relay.times.iter().map(move |time| (index, time)))
    });
    let times = times.map(|(segment, time)| {
        json!({ "segment": segment, "scene": time.scene, "frames": time.frames, "latent_frames": time.latent })
    });
    json!({ "texts": texts.collect::<Vec<_>>(), "times": times.collect::<Vec<_>>() })
}

/// What the method of a stage has of its own, where it is not windows.
fn of_method(stage: &Stage) -> Result<Map<String, Value>> {
    let mut settings = Map::new();
    if let Some(FreeNoise { window, stride }) = stage.method.free_noise {
        let frame_texts: Vec<_> = stage.segments.iter().map(|segment| &segment.plan.frame_texts).collect();
        settings.extend([
            ("method".to_owned(), json!("freenoise")),
            ("window".to_owned(), json!(window)),
            ("stride".to_owned(), json!(stride)),
            ("frame_texts".to_owned(), json!(frame_texts)),
        ]);
    }
    if let Some(zero_shot) = &stage.method.zero_shot {
        let plan = zero_shot.motion.as_ref();
        settings.extend([
            ("motion".to_owned(), json!(plan.map_or("none".to_owned(), |plan| plan.motion.to_string()))),
            ("motion_path".to_owned(), json!(plan.map(|plan| plan.path.to_string()))),
            // all frames take the steps from the first of these on
            ("motion_between_steps".to_owned(), json!(plan.map(|plan| [plan.first, plan.moved]))),
            ("chunk".to_owned(), json!(zero_shot.chunk)),
            ("noise".to_owned(), json!(zero_shot.noise.map(|noise| noise.to_string()))),
        ]);
    }
    if let Some(smoothing) = stage.method.zero_shot.as_ref().and_then(ZeroShot::smoothing) {
        settings.insert("smooth_background".to_owned(), json!(smoothing.strength));
        match &smoothing.foreground {
            Foreground::Pictures { file, .. } => {
                settings.insert("mask".to_owned(), of_file(file)?);
            }
            Foreground::Words { words, threshold } => {
                let mask = [("subject", json!(words)), ("mask_threshold", json!(threshold))];
                settings.extend(mask.map(|(key, value)| (key.to_owned(), value)));
            }
        }
    }
    if let Some(Footage { path, .. }) = &stage.input.first_frame {
        settings.insert("first_frame".to_owned(), of_file(path)?);
    }
    if let Some(streaming) = &stage.method.streaming {
        settings.extend(of_chunks(stage, streaming)?);
    }
    if let Some(placed) = &stage.method.placed {
        settings.extend(of_placed(placed)?);
    }
    if !stage.method.control_inputs.is_empty() {
        let control = |input: &ControlInput| {
            Ok(json!({
                "kind": input.kind.to_string(),
                "file": input.footage.path.to_string_lossy(),
                "blake3": file_hash(&input.footage.path)?,
                "frames": input.footage.frames,
                "weight": input.weight,
                "canny": (input.kind == ControlKind::Canny).then(|| input.canny.to_string()),
                "model": input.model.name,
            }))
        };
        let controls = stage.method.control_inputs.iter().map(control).collect::<Result<Vec<_>>>()?;
        settings.insert("control".to_owned(), json!(controls));
    }
    settings.extend(of_guidance(stage)?);
    if let Some(Instruct { footage, image_guidance }) = &stage.method.instruct {
        let given = of_footage(footage)?;
        settings.extend([("image_guidance_scale".to_owned(), json!(image_guidance)), ("given".to_owned(), given)]);
    }
    if let (Some(footage), Some(strength)) = (&stage.input.footage, stage.input.strength) {
        let given = of_footage(footage)?;
        let draws = stage.method.overwriting.map(|mode| mode.to_string());
        settings.extend([
            ("strength".to_owned(), json!(strength)),
            ("blend".to_owned(), json!(draws)),
            ("given".to_owned(), given),
        ]);
    }
    Ok(settings)
}

/// How chunks go on from each other.
fn of_chunks(stage: &Stage, streaming: &Streaming) -> Result<Map<String, Value>> {
    let anchor = match &streaming.anchor {
        Anchor::Frame(frame) => json!(format!("frame:{frame}")),
        Anchor::Image(picture) => {
            json!({ "image": picture.path.to_string_lossy(), "blake3": file_hash(&picture.path)? })
        }
        Anchor::None => json!("none"),
    };
    let mut settings = Map::from_iter([
        ("chunk_frames".to_owned(), json!(streaming.frames.chunk)),
        ("frames_before".to_owned(), json!(streaming.frames.before)),
        ("anchor".to_owned(), anchor),
    ]);
    if let Some(first) = &streaming.first {
        settings.extend([
            ("first_steps".to_owned(), json!(first.sampler.steps)),
            ("first_guidance_scale".to_owned(), json!(first.guidance.to_string())),
            ("first_scheduler".to_owned(), json!(first.sampler.kind.to_string())),
        ]);
    }
    if let Some(source) = &stage.input.source_video {
        let context = json!({
            "video": source.path.to_string_lossy(),
            "frames": source.frames,
            "only_new": source.only_new,
            "blake3": file_hash(&source.path)?,
        });
        settings.insert("context".to_owned(), context);
    }
    Ok(settings)
}

/// A file by its place and what is in it.
fn of_file(path: &Path) -> Result<Value> {
    Ok(json!({ "file": path.to_string_lossy(), "blake3": file_hash(path)? }))
}

/// Which subject is put into the video, and where.
fn of_placed(placed: &Placed) -> Result<Map<String, Value>> {
    let mut settings = Map::new();
    if let Some(picture) = &placed.picture {
        settings.insert("subject_image".to_owned(), of_file(&picture.path)?);
        let mask = picture.mask.as_deref().map(of_file).transpose()?;
        settings.insert("subject_mask".to_owned(), json!(mask));
        settings.insert("lambda_m".to_owned(), json!(placed.boxes.as_ref().map(|_| placed.outside)));
    }
    settings.insert("boxes".to_owned(), json!(placed.boxes));
    Ok(settings)
}

/// Given frames, and what guidance makes of them.
fn of_guidance(stage: &Stage) -> Result<Map<String, Value>> {
    let (mut settings, method) = (Map::new(), &stage.method);
    let GuidanceForm { mode, image, renorm, null_frame } = method.guidance;
    if renorm != Renorm::Off {
        settings.insert("renorm".to_owned(), json!(renorm.to_string()));
    }
    let goes_on = mode != GuidanceMode::Cfg;
    if method.given.is_some() || method.keyframes || goes_on {
        settings.insert("guidance_mode".to_owned(), json!(mode.to_string()));
        if mode == GuidanceMode::Sit {
            settings.insert("image_guidance_scale".to_owned(), json!(image));
        }
        if mode != GuidanceMode::Cfg && method.given.as_ref().is_none_or(|given| given.from != GivenFrom::Beside) {
            settings.insert("null_frame".to_owned(), json!(null_frame.to_string()));
        }
        settings.insert("keyframes".to_owned(), json!(method.keyframes));
    }
    if let Some(given) = &method.given {
        let files = given.files.iter().map(of_footage).collect::<Result<Vec<_>>>()?;
        let at = stage.segments.iter().map(|segment| {
            let at = segment.given.iter().map(|at| json!([at.frame, at.of]));
            at.collect::<Value>()
        });
        settings.extend([
            ("given".to_owned(), json!(files)),
            ("fit".to_owned(), json!(given.fit.to_string())),
            // by clip: latent frames, and which of the given ones stands there
            ("given_at".to_owned(), at.collect::<Value>()),
        ]);
    }
    Ok(settings)
}

/// Which frames of a given video a run works on.
fn of_footage(footage: &Footage) -> Result<Value> {
    Ok(json!({
        "video": footage.path.to_string_lossy(),
        "blake3": file_hash(&footage.path)?,
        "frames": footage.frames,
    }))
}

/// What a second stage has of its own.
fn enhancing(stage: &Stage) -> Result<Value> {
    let steps = &stage.sampler.steps;
    Ok(json!({
        "model": stage.model.folder.name(),
        "hashes": hashes(stage)?,
        "recipe": stage.model.recipe,
        "strength": stage.input.strength,
        "steps": steps - stage.input.first_step(*steps),
        "guidance_scale": stage.guidance.to_string(),
        "scheduler": stage.sampler.kind.to_string(),
        "windows": stage.segments.iter().map(|segment| segment.plan.windows.len()).collect::<Vec<_>>(),
    }))
}
