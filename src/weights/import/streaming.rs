//! Checkpoints of StreamingT2V (arXiv 2403.14773): the published `streaming_t2v.ckpt` and VidXTend's safetensors become a
//! `StreamingT2VPipeline` folder. Which tensors there must be follows from the plain network of `--base`.

use super::checkpoint::{self, Stored};
use super::{Conversion, Output, Tensors, folder, lacking, open_clip, some_of, text_file};
use crate::weights::error::{Result, refuse};
use crate::weights::files;
use crate::weights::source::Source;
use serde_json::{Map, Value, json};

/// Frames of a chunk, and of those before it that CAM sees; no tensor says them.
const CHUNK: usize = 16;
const SEEN: usize = 8;
/// Groups of the mergers' norms.
const MERGER_GROUPS: usize = 32;

/// Under which names the parts stand.
#[derive(Debug)]
pub struct Layout {
    unet: &'static str,
    cam: &'static str,
    /// None where the file has no image encoder.
    pub image_encoder: Option<&'static str>,
}

impl Layout {
    /// None of a file of another kind.
    pub fn of(tensors: &Tensors) -> Option<Self> {
        let has =
            |prefix: &str| tensors.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix));
        if has("base_model.") && has("unet.") {
            Some(Self { unet: "base_model.", cam: "unet.", image_encoder: Some("image_encoder.model.") })
        } else if has("unet.") && has("controlnet.") {
            Some(Self { unet: "unet.", cam: "controlnet.", image_encoder: None })
        } else {
            None
        }
    }
}

/// # Errors
/// A base that is none; tensors that are missing or left over, shapes that are not those of the base.
pub fn convert(conversion: &Conversion, layout: &Layout, mut tensors: Tensors, output: &mut Output) -> Result<()> {
    let base = Source::Folder(conversion.base.unwrap_or(conversion.input).to_owned());
    let plain = Plain::open(&base)?;

    let unet = taken(&mut tensors, layout.unet);
    output.json("unet/config.json", &plain.streaming(&unet)?)?;
    output.write("unet/diffusion_pytorch_model.safetensors", unet)?;
    let cam = taken(&mut tensors, layout.cam);
    output.json("cam/config.json", &plain.cam(&cam)?)?;
    output.write("cam/diffusion_pytorch_model.safetensors", cam)?;
    let resampler = taken(&mut tensors, "resampler.");
    output.json("resampler/config.json", &plain.resampler(&resampler)?)?;
    output.write("resampler/diffusion_pytorch_model.safetensors", resampler)?;
    for (part, stem) in [("vae", "diffusion_pytorch_model"), ("text_encoder", "model")] {
        let mut own = taken(&mut tensors, &format!("{part}."));
        own.retain(|name, _| !name.ends_with("position_ids"));
        let Some((_, of_base)) = folder::tensors(&base, part)? else { refuse!("{}: has no {part}", base.place()) };
        same_tensors(part, &of_base, &own)?;
        output.copy(&base, &format!("{part}/config.json"))?;
        output.write(&format!("{part}/{stem}.safetensors"), own)?;
    }
    let (config, tower) = image_encoder(conversion, layout, &mut tensors)?;
    output.json("image_encoder/config.json", &config)?;
    output.write("image_encoder/model.safetensors", tower)?;
    leftover("the file", tensors.keys())?;

    output.json("base_unet/config.json", &plain.config.clone().into())?;
    output.write("base_unet/diffusion_pytorch_model.safetensors", plain.tensors)?;
    for part in ["tokenizer", "scheduler"] {
        for name in base.list(part).iter().filter(|name| text_file(name)) {
            output.copy(&base, &files::inside(part, name))?;
        }
    }
    output.json("model_index.json", &index(&base)?)
}

/// The tensors under a prefix, without it.
fn taken(tensors: &mut Tensors, prefix: &str) -> Tensors {
    let (own, rest) = std::mem::take(tensors).into_iter().partition(|(name, _)| name.starts_with(prefix));
    *tensors = rest;
    let own: Tensors = own;
    own.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect()
}

fn leftover<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<()> {
    let names: Vec<String> = names.cloned().collect();
    if !names.is_empty() {
        refuse!("{what} has what no streaming model has, {}", some_of(&names));
    }
    Ok(())
}

/// A name as files of today write it: those of before say the projections of the autoencoder's attention otherwise, and text
/// encoders stand with or without the name of their model.
fn canonical(name: &str) -> String {
    const OLD: [(&str, &str); 4] =
        [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    let name = name.strip_prefix("text_model.").unwrap_or(name);
    OLD.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new))
}

/// Refuses a part whose tensors are not those of the base.
fn same_tensors(part: &str, base: &Tensors, own: &Tensors) -> Result<()> {
    let by_name = |tensors: &Tensors| -> Tensors {
        let named = tensors.iter().filter(|(name, _)| !name.ends_with("position_ids"));
        named.map(|(name, tensor)| (canonical(name), tensor.clone())).collect()
    };
    let (base, own) = (by_name(base), by_name(own));
    lacking(part, base.keys().cloned(), &own)?;
    leftover(part, own.keys().filter(|name| !base.contains_key(*name)))?;
    same_shapes(part, &base, &own)
}

/// Sizes, but for dimensions of one at the end: convolutions of one pixel are linear layers elsewhere.
fn same_shapes(part: &str, base: &Tensors, own: &Tensors) -> Result<()> {
    let sizes = |tensor: &Stored| {
        let ones = tensor.shape.iter().rev().take_while(|&&length| length == 1).count();
        tensor.shape[..tensor.shape.len() - ones].to_vec()
    };
    for (name, tensor) in base {
        if let Some(here) = own.get(name).filter(|here| sizes(here) != sizes(tensor)) {
            refuse!("{part}: tensor {name:?} has shape {:?}, in the base {:?}", here.shape, tensor.shape);
        }
    }
    Ok(())
}

/// The plain network of the base.
struct Plain {
    config: Map<String, Value>,
    tensors: Tensors,
}

impl Plain {
    fn open(base: &Source) -> Result<Self> {
        let config: Value = crate::weights::json(base, "unet/config.json")?;
        let Some((_, tensors)) = folder::tensors(base, "unet")? else {
            refuse!("{}: has no unet: --base takes the folder of a text-to-video model", base.place())
        };
        match config {
            Value::Object(config) => Ok(Self { config, tensors }),
            _ => refuse!("{}: no configuration", base.show("unet/config.json")),
        }
    }

    /// A size that its configuration says.
    fn size(&self, key: &str) -> Result<u64> {
        match self.config.get(key).and_then(Value::as_u64).filter(|&size| size > 0) {
            Some(size) => Ok(size),
            None => refuse!("the base's unet/config.json: key {key:?} is no size"),
        }
    }

    fn config_with<'a>(&self, class: &str, keys: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
        let mut config = self.config.clone();
        config.insert("_class_name".to_owned(), class.into());
        config.extend(keys.into_iter().map(|(key, value)| (key.to_owned(), value)));
        config.into()
    }

    /// The names that the streaming network has beside those of the plain one: a merger for each skip and the middle, a mixer
    /// for each attention to text.
    fn extra(&self) -> Vec<String> {
        const MERGER: [&str; 11] = [
            "norm.weight",
            "norm.bias",
            "proj_in.weight",
            "proj_in.bias",
            "proj_out.weight",
            "proj_out.bias",
            "attention.to_q.weight",
            "attention.to_k.weight",
            "attention.to_v.weight",
            "attention.to_out.0.weight",
            "attention.to_out.0.bias",
        ];
        const MIXER: [&str; 5] = ["conv.weight", "conv.bias", "conv_ln.weight", "conv_ln.bias", "alpha"];
        let names = self.tensors.keys();
        // conv_in, each resnet of the down path, each downsampler
        let skip = |name: &&String| {
            name.starts_with("down_blocks.")
                && (name.ends_with(".norm1.weight") && name.contains(".resnets.")
                    || name.ends_with(".conv.weight") && name.contains(".downsamplers."))
        };
        let skips = 1 + names.clone().filter(skip).count();
        let places = (0..skips).map(|skip| format!("cross_attention_merger_down_blocks.{skip}"));
        let places = places.chain(["cross_attention_merger_mid_block".to_owned()]);
        let mergers = places.flat_map(|place| MERGER.map(|name| format!("{place}.temporal_transformer.{name}")));
        let to_text = names
            .filter_map(|name| name.strip_suffix("attn2.to_q.weight").filter(|name| name.contains(".attentions.")));
        mergers.chain(to_text.flat_map(|place| MIXER.map(|name| format!("{place}attn2.{name}")))).collect()
    }

    /// The configuration of the main network, whose tensors are checked.
    fn streaming(&self, unet: &Tensors) -> Result<Value> {
        let part = "unet, the main network,";
        let extra = self.extra();
        lacking(part, self.tensors.keys().chain(&extra).cloned(), unet)?;
        leftover(part, unet.keys().filter(|name| !self.tensors.contains_key(*name) && !extra.contains(name)))?;
        same_shapes(part, &self.tensors, unet)?;
        let mixer = extra.iter().find(|name| name.ends_with("attn2.conv.weight")).and_then(|name| unet.get(name));
        let Some(&[words, all, _]) = mixer.map(|mixer| &mixer.shape[..]) else { refuse!("{part} has no mixer") };
        let keys = [
            ("merger_head_dim", json!(self.size("attention_head_dim")?)),
            ("merger_norm_num_groups", json!(MERGER_GROUPS)),
            ("text_tokens", json!(words)),
            ("image_tokens", json!(all.saturating_sub(words))),
        ];
        Ok(self.config_with("StreamingUNet3DConditionModel", keys))
    }

    /// The configuration of CAM, whose tensors are checked: the down path and the middle of the plain network, and an encoder of
    /// frames.
    fn cam(&self, cam: &Tensors) -> Result<Value> {
        const PARTS: [&str; 5] = ["conv_in.", "time_embedding.", "transformer_in.", "down_blocks.", "mid_block."];
        const FRAMES: &str = "controlnet_cond_embedding.";
        let of_plain = |name: &&String| PARTS.iter().any(|part| name.starts_with(part));
        let shape = |name: &str| match cam.get(&format!("{FRAMES}{name}")) {
            Some(tensor) if tensor.shape.len() == 4 => Ok(tensor.shape.clone()),
            _ => refuse!("cam lacks tensor {FRAMES}{name}"),
        };
        let first = shape("conv_in.weight")?;
        // two convolutions a level, the second of which halves
        let blocks =
            cam.keys().filter(|name| name.starts_with(&format!("{FRAMES}blocks.")) && name.ends_with(".weight"));
        let levels = blocks.count() / 2;
        let channels = (0..levels).map(|level| Ok(shape(&format!("blocks.{}.weight", 2 * level + 1))?[0]));
        let channels = [Ok(first[0])].into_iter().chain(channels).collect::<Result<Vec<_>>>()?;
        let convolutions =
            (0..2 * levels).map(|at| format!("blocks.{at}")).chain(["conv_in".into(), "conv_out".into()]);
        let frames = convolutions.flat_map(|name| ["weight", "bias"].map(|kind| format!("{FRAMES}{name}.{kind}")));
        let expected: Vec<String> = self.tensors.keys().filter(of_plain).cloned().chain(frames).collect();
        lacking("cam", expected.iter().cloned(), cam)?;
        leftover("cam", cam.keys().filter(|name| !expected.contains(name)))?;
        same_shapes("cam", &self.tensors, cam)?;
        let keys = [
            ("conditioning_channels", json!(first[1])),
            ("conditioning_embedding_out_channels", json!(channels)),
            ("num_frames", json!(SEEN)),
        ];
        let mut config = self.config_with("StreamingCAM", keys);
        if let Value::Object(config) = &mut config {
            config.retain(|key, _| !["up_block_types", "out_channels"].contains(&key.as_str()));
        }
        Ok(config)
    }

    fn resampler(&self, resampler: &Tensors) -> Result<Value> {
        let names =
            [0, 2].map(|layer| ["weight", "bias"].map(|kind| format!("context_embedding.{layer}.{kind}"))).concat();
        lacking("resampler", names.iter().cloned(), resampler)?;
        leftover("resampler", resampler.keys().filter(|name| !names.contains(name)))?;
        let text = self.size("cross_attention_dim")?;
        let (first, last) = (&resampler[&names[0]].shape[..], &resampler[&names[2]].shape[..]);
        match (first, last) {
            (&[inner, embedding], &[tokens, also]) if inner == also && (tokens as u64).is_multiple_of(text) => {
                Ok(json!({
                    "_class_name": "StreamingResampler",
                    "embed_dim": embedding,
                    "inner_dim": inner,
                    "cross_attention_dim": text,
                    "num_tokens": tokens as u64 / text,
                }))
            }
            _ => refuse!("resampler: {first:?} and {last:?} are no layers that lead to tokens of {text}"),
        }
    }
}

/// The tower of the checkpoint, or the one of `--image-encoder`, with its configuration.
fn image_encoder(conversion: &Conversion, layout: &Layout, tensors: &mut Tensors) -> Result<(Value, Tensors)> {
    let place = match (layout.image_encoder, conversion.image_encoder) {
        (None, Some(place)) => place,
        (prefix, _) => return open_clip::tower(taken(tensors, prefix.unwrap_or_default())),
    };
    if !place.is_dir() {
        return open_clip::tower(checkpoint::open(place)?);
    }
    let source = Source::Folder(place.to_owned());
    let config = crate::weights::json(&source, "config.json")?;
    match folder::tensors(&source, "")? {
        Some((_, tensors)) => Ok((config, tensors)),
        None => refuse!("{}: holds no weights", place.display()),
    }
}

fn index(base: &Source) -> Result<Value> {
    let of_base: Value = crate::weights::json(base, "model_index.json")?;
    let part = |name: &str, other: [&str; 2]| of_base.get(name).cloned().unwrap_or_else(|| json!(other));
    Ok(json!({
        "_class_name": "StreamingT2VPipeline",
        "chunk_frames": CHUNK,
        "anchor_frame": 0,
        "unet": ["vidgen", "StreamingUNet3DConditionModel"],
        "base_unet": ["diffusers", "UNet3DConditionModel"],
        "cam": ["vidgen", "StreamingCAM"],
        "resampler": ["vidgen", "StreamingResampler"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "text_encoder": part("text_encoder", ["transformers", "CLIPTextModel"]),
        "tokenizer": part("tokenizer", ["transformers", "CLIPTokenizer"]),
        "vae": part("vae", ["diffusers", "AutoencoderKL"]),
        "scheduler": part("scheduler", ["diffusers", "DDIMScheduler"]),
    }))
}
