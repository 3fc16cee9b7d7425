//! Checkpoints of Stable Diffusion 1.x and 2.x in one file, with the names of CompVis' and Stability's own programs
//! (`model.diffusion_model.`, `first_stage_model.`, `cond_stage_model.`), as a folder in diffusers' layout: the same tensors by diffusers'
//! names, and configurations that follow from their shapes. What shapes do not say is as in the published models: 32 groups in
//! norms, 8 heads (1.x) or heads of 64 channels (2.x, and text), the betas of the scheduler.
//!
//! After `convert_ldm_unet_checkpoint`, `convert_ldm_vae_checkpoint`, `convert_ldm_clip_checkpoint` and `convert_open_clip_checkpoint` of
//! diffusers.

use super::architecture::INSTRUCT;
use crate::models::original::{Original, Renamed, Shapes};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const CLIP: &str = "cond_stage_model.transformer.";
const OPEN_CLIP: &str = "cond_stage_model.model.";
/// Channels of a head, in the text towers and in the UNet of 2.x.
const HEAD: usize = 64;
/// Heads of the UNet of 1.x.
const HEADS: usize = 8;

/// A checkpoint as a folder; none where it is no such checkpoint.
///
/// # Errors
/// Checkpoints of larger models, and parts that are not there.
pub fn original(shapes: &Shapes) -> Result<Option<Original>> {
    if shapes.keys().any(|name| name.starts_with("conditioner.embedders.")) {
        bail!("a checkpoint of Stable Diffusion XL, whose networks are of another form: use one of 1.x or 2.x")
    }
    if !shapes.keys().any(|name| name.starts_with(UNET)) {
        return Ok(None);
    }
    let mut tensors = Vec::new();
    let unet = unet(shapes, &mut tensors)?;
    let vae = vae(shapes, &mut tensors)?;
    let second = !shapes.keys().any(|name| name.starts_with(CLIP));
    let text = if second { open_clip(shapes, &mut tensors)? } else { clip(shapes, &mut tensors)? };
    let changes = unet["in_channels"].as_u64() == vae["latent_channels"].as_u64().map(|channels| 2 * channels);
    let class = if changes { INSTRUCT } else { "StableDiffusionPipeline" };
    let pad = if second { "!" } else { "<|endoftext|>" };
    let files = [
        ("model_index.json", json!({ "_class_name": class })),
        ("unet/config.json", unet),
        ("vae/config.json", vae),
        ("text_encoder/config.json", text),
        ("scheduler/scheduler_config.json", scheduler(second)),
        ("tokenizer/tokenizer_config.json", json!({ "model_max_length": 77, "pad_token": pad })),
    ];
    let files = files.into_iter().map(|(path, value)| (path.to_owned(), value)).collect();
    Ok(Some(Original { files, tensors }))
}

/// 2.x as 2.1 of 768 pixels, which predicts velocities; 2-base differs by its file alone.
fn scheduler(second: bool) -> Value {
    json!({
        "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
        "prediction_type": if second { "v_prediction" } else { "epsilon" },
    })
}

/// The numbers that stand behind a prefix, as `input_blocks.`.
pub(super) fn numbers(shapes: &Shapes, prefix: &str) -> usize {
    let names = shapes.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
    let number = names.filter_map(|(name, _)| name[prefix.len()..].split('.').next()?.parse::<usize>().ok());
    number.max().map_or(0, |last| last.saturating_add(1))
}

pub(super) fn dim(shapes: &Shapes, name: &str, axis: usize) -> Result<usize> {
    let shape = shapes.get(name).with_context(|| format!("no tensor {name:?}: not a whole checkpoint"))?;
    shape.get(axis).copied().with_context(|| format!("tensor {name:?} has shape {shape:?}"))
}

pub(super) fn has(shapes: &Shapes, prefix: &str) -> bool {
    shapes.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
}

/// Takes the tensors below `from` over as those below `to`; `inner` renames what follows.
pub(super) fn take(
    shapes: &Shapes,
    part: &'static str,
    from: &str,
    to: &str,
    inner: &[(&str, &str)],
    into: &mut Vec<Renamed>,
) {
    for (name, shape) in shapes.range(from.to_owned()..).take_while(|(name, _)| name.starts_with(from)) {
        let rest = &name[from.len()..];
        let rest = inner.iter().find_map(|(old, new)| Some(format!("{new}{}", rest.strip_prefix(old)?)));
        let Some(rest) = rest.filter(|rest| !rest.ends_with("position_ids")) else { continue }; // places are counted
        // a linear layer kept as a convolution of one pixel
        let linear = to.contains("attentions") && part == "vae" && shape.len() == 4;
        let shape = if linear { shape[..2].to_vec() } else { shape.clone() };
        into.push(Renamed { part, name: format!("{to}{rest}"), of: name.clone(), rows: None, shape });
    }
}

/// Inside a residual block of the UNet.
const RESNET: [(&str, &str); 6] = [
    ("in_layers.0.", "norm1."),
    ("in_layers.2.", "conv1."),
    ("out_layers.0.", "norm2."),
    ("out_layers.3.", "conv2."),
    ("emb_layers.1.", "time_emb_proj."),
    ("skip_connection.", "conv_shortcut."),
];
/// Everything as it is.
pub(super) const SAME: [(&str, &str); 1] = [("", "")];

/// The way down of a UNet and its middle, which a control network has as well: the tensors below `prefix`, and how many blocks there are
/// in levels of how many.
pub(super) fn way_down(
    shapes: &Shapes,
    part: &'static str,
    prefix: &str,
    into: &mut Vec<Renamed>,
) -> Result<(usize, usize)> {
    let at = |path: &str| format!("{prefix}{path}");
    let inputs = numbers(shapes, &at("input_blocks."));
    ensure!((2..=256).contains(&inputs), "{inputs} input blocks");
    let mut put = |from: &str, to: &str, inner: &[(&str, &str)]| take(shapes, part, &at(from), to, inner, into);
    for (from, to) in [
        ("time_embed.0.", "time_embedding.linear_1."),
        ("time_embed.2.", "time_embedding.linear_2."),
        ("input_blocks.0.0.", "conv_in."),
        ("middle_block.1.", "mid_block.attentions.0."),
    ] {
        put(from, to, &SAME);
    }
    put("middle_block.0.", "mid_block.resnets.0.", &RESNET);
    put("middle_block.2.", "mid_block.resnets.1.", &RESNET);
    let halves = |index: usize| has(shapes, &at(&format!("input_blocks.{index}.0.op.")));
    let stride = (1..inputs).find(|&index| halves(index)).unwrap_or(inputs);
    ensure!(stride >= 2, "a level without layers");
    for index in 1..inputs {
        let (level, layer) = ((index - 1) / stride, (index - 1) % stride);
        let block = format!("input_blocks.{index}.");
        put(&format!("{block}0.op."), &format!("down_blocks.{level}.downsamplers.0.conv."), &SAME);
        put(&format!("{block}0."), &format!("down_blocks.{level}.resnets.{layer}."), &RESNET);
        put(&format!("{block}1."), &format!("down_blocks.{level}.attentions.{layer}."), &SAME);
    }
    Ok((inputs, stride))
}

fn unet(shapes: &Shapes, into: &mut Vec<Renamed>) -> Result<Value> {
    let at = |path: &str| format!("{UNET}{path}");
    let (inputs, stride) = way_down(shapes, "unet", UNET, into)?;
    let outputs = numbers(shapes, &at("output_blocks."));
    ensure!(outputs == inputs, "{inputs} input blocks and {outputs} output blocks");
    let mut put = |from: &str, to: &str, inner: &[(&str, &str)]| take(shapes, "unet", &at(from), to, inner, into);
    put("out.0.", "conv_norm_out.", &SAME);
    put("out.2.", "conv_out.", &SAME);
    for index in 0..outputs {
        let (level, layer) = (index / stride, index % stride);
        let block = format!("output_blocks.{index}.");
        put(&format!("{block}0."), &format!("up_blocks.{level}.resnets.{layer}."), &RESNET);
        // what follows is attention, or what doubles the sides, or both
        let attends = has(shapes, &at(&format!("{block}1.norm.")));
        if attends {
            put(&format!("{block}1."), &format!("up_blocks.{level}.attentions.{layer}."), &SAME);
        }
        let doubling = format!("{block}{}.conv.", if attends { 2 } else { 1 });
        put(&doubling, &format!("up_blocks.{level}.upsamplers.0.conv."), &SAME);
    }
    let up = |level: usize| {
        let norm = at(&format!("output_blocks.{}.1.norm.", level * stride));
        if has(shapes, &norm) { "CrossAttnUpBlock2D" } else { "UpBlock2D" }
    };
    let mut config = down_config(shapes, UNET, (inputs, stride))?;
    config.extend([
        ("_class_name".to_owned(), json!("UNet2DConditionModel")),
        ("sample_size".to_owned(), json!(if config["use_linear_projection"] == true { 96 } else { 64 })),
        ("out_channels".to_owned(), json!(dim(shapes, &at("out.2.weight"), 0)?)),
        ("up_block_types".to_owned(), json!((0..inputs / stride).map(up).collect::<Vec<_>>())),
    ]);
    Ok(Value::Object(config))
}

/// What the shapes of a [`way_down`] say.
pub(super) fn down_config(
    shapes: &Shapes,
    prefix: &str,
    (inputs, stride): (usize, usize),
) -> Result<Map<String, Value>> {
    let at = |path: &str| format!("{prefix}{path}");
    let levels = inputs.div_ceil(stride);
    ensure!(levels * stride == inputs, "{inputs} input blocks in levels of {stride}");
    let attends = |index: usize| has(shapes, &at(&format!("input_blocks.{index}.1.norm.")));
    let first = |level: usize| 1 + level * stride;
    let channels = (0..levels).map(|level| {
        let conv = at(&format!("input_blocks.{}.0.out_layers.3.weight", first(level)));
        dim(shapes, &conv, 0)
    });
    let channels: Vec<usize> = channels.collect::<Result<_>>()?;
    let down = |level: usize| if attends(first(level)) { "CrossAttnDownBlock2D" } else { "DownBlock2D" };
    let middle = at("middle_block.1.");
    ensure!(
        !has(shapes, &format!("{middle}transformer_blocks.1.")),
        "several transformer blocks a layer, as in Stable Diffusion XL: use a checkpoint of 1.x or 2.x"
    );
    let linear = shapes.get(&format!("{middle}proj_in.weight")).is_some_and(|shape| shape.len() == 2);
    let heads = |channels: usize| if linear { (channels / HEAD).max(1) } else { HEADS };
    let config = [
        ("in_channels", json!(dim(shapes, &at("input_blocks.0.0.weight"), 1)?)),
        ("block_out_channels", json!(channels)),
        ("layers_per_block", json!(stride - 1)),
        ("down_block_types", json!((0..levels).map(down).collect::<Vec<_>>())),
        ("cross_attention_dim", json!(dim(shapes, &format!("{middle}transformer_blocks.0.attn2.to_k.weight"), 1)?)),
        ("attention_head_dim", json!(channels.iter().map(|&channels| heads(channels)).collect::<Vec<_>>())),
        ("use_linear_projection", json!(linear)),
        ("norm_num_groups", json!(32)),
    ];
    Ok(config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Inside a residual block of the autoencoder.
const VAE_RESNET: [(&str, &str); 5] = [
    ("norm1.", "norm1."),
    ("conv1.", "conv1."),
    ("norm2.", "norm2."),
    ("conv2.", "conv2."),
    ("nin_shortcut.", "conv_shortcut."),
];
const VAE_ATTENTION: [(&str, &str); 5] =
    [("norm.", "group_norm."), ("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v."), ("proj_out.", "to_out.0.")];

fn vae(shapes: &Shapes, into: &mut Vec<Renamed>) -> Result<Value> {
    let at = |path: &str| format!("{VAE}{path}");
    let (levels, layers) = (numbers(shapes, &at("encoder.down.")), numbers(shapes, &at("encoder.down.0.block.")));
    ensure!(
        (1..=8).contains(&levels) && (1..=64).contains(&layers),
        "an autoencoder of {levels} levels of {layers} layers"
    );
    let mut put = |from: &str, to: &str, inner: &[(&str, &str)]| take(shapes, "vae", &at(from), to, inner, into);
    for (from, to) in [("quant_conv.", "quant_conv."), ("post_quant_conv.", "post_quant_conv.")] {
        put(from, to, &SAME);
    }
    for half in ["encoder", "decoder"] {
        for (from, to) in [("conv_in.", "conv_in."), ("conv_out.", "conv_out."), ("norm_out.", "conv_norm_out.")] {
            put(&format!("{half}.{from}"), &format!("{half}.{to}"), &SAME);
        }
        put(&format!("{half}.mid.attn_1."), &format!("{half}.mid_block.attentions.0."), &VAE_ATTENTION);
        for resnet in [0, 1] {
            let (from, to) =
                (format!("{half}.mid.block_{}.", resnet + 1), format!("{half}.mid_block.resnets.{resnet}."));
            put(&from, &to, &VAE_RESNET);
        }
    }
    for level in 0..levels {
        let (down, up) = (format!("encoder.down_blocks.{level}"), format!("decoder.up_blocks.{}", levels - 1 - level));
        put(&format!("encoder.down.{level}.downsample.conv."), &format!("{down}.downsamplers.0.conv."), &SAME);
        put(&format!("decoder.up.{level}.upsample.conv."), &format!("{up}.upsamplers.0.conv."), &SAME);
        for layer in 0..=layers {
            put(&format!("encoder.down.{level}.block.{layer}."), &format!("{down}.resnets.{layer}."), &VAE_RESNET);
            put(&format!("decoder.up.{level}.block.{layer}."), &format!("{up}.resnets.{layer}."), &VAE_RESNET);
        }
    }
    let channels = (0..levels).map(|level| dim(shapes, &at(&format!("encoder.down.{level}.block.0.conv1.weight")), 0));
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels.collect::<Result<Vec<_>>>()?,
        "layers_per_block": layers,
        "latent_channels": dim(shapes, &at("decoder.conv_in.weight"), 1)?,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "norm_num_groups": 32,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    }))
}

/// OpenAI's text tower, in transformers' names already.
fn clip(shapes: &Shapes, into: &mut Vec<Renamed>) -> Result<Value> {
    // some programs have saved it without this
    let inner = if has(shapes, &format!("{CLIP}text_model.")) { "text_model." } else { "" };
    take(shapes, "text_encoder", &format!("{CLIP}{inner}"), "text_model.", &SAME, into);
    let at = |path: &str| format!("{CLIP}{inner}{path}");
    let layers = numbers(shapes, &at("encoder.layers."));
    text_config(
        shapes,
        (&at("embeddings.token_embedding.weight"), &at("embeddings.position_embedding.weight")),
        (layers, &at("encoder.layers.0.mlp.fc1.weight")),
        "quick_gelu",
    )
}

/// Inside a block of OpenCLIP's text tower.
const OPEN_BLOCK: [(&str, &str); 5] = [
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
    ("attn.out_proj.", "self_attn.out_proj."),
];

/// OpenCLIP's text tower without its last block: the UNet was trained on what comes out of the one before.
fn open_clip(shapes: &Shapes, into: &mut Vec<Renamed>) -> Result<Value> {
    let at = |path: &str| format!("{OPEN_CLIP}{path}");
    ensure!(has(shapes, OPEN_CLIP), "no text encoder ({CLIP} or {OPEN_CLIP}): not a whole checkpoint");
    let layers = numbers(shapes, &at("transformer.resblocks.")).saturating_sub(1);
    ensure!((1..=256).contains(&layers), "a text encoder of {layers} layers");
    let mut one = |of: &str, name: &str, rows: Option<(usize, usize)>| -> Result<()> {
        let of = at(of);
        let mut shape = shapes.get(&of).with_context(|| format!("no tensor {of:?}: not a whole checkpoint"))?.clone();
        if let (Some((_, count)), Some(first)) = (rows, shape.first_mut()) {
            *first = count;
        }
        into.push(Renamed { part: "text_encoder", name: format!("text_model.{name}"), of, rows, shape });
        Ok(())
    };
    one("token_embedding.weight", "embeddings.token_embedding.weight", None)?;
    one("positional_embedding", "embeddings.position_embedding.weight", None)?;
    for layer in 0..layers {
        let block = format!("transformer.resblocks.{layer}.attn.in_proj_");
        for kind in ["weight", "bias"] {
            let rows = dim(shapes, &at(&format!("{block}{kind}")), 0)? / 3;
            for (third, name) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
                let name = format!("encoder.layers.{layer}.self_attn.{name}.{kind}");
                one(&format!("{block}{kind}"), &name, Some((third * rows, rows)))?;
            }
        }
    }
    take(shapes, "text_encoder", &at("ln_final."), "text_model.final_layer_norm.", &SAME, into);
    for layer in 0..layers {
        let block = at(&format!("transformer.resblocks.{layer}."));
        take(shapes, "text_encoder", &block, &format!("text_model.encoder.layers.{layer}."), &OPEN_BLOCK, into);
    }
    text_config(
        shapes,
        (&at("token_embedding.weight"), &at("positional_embedding")),
        (layers, &at("transformer.resblocks.0.mlp.c_fc.weight")),
        "gelu",
    )
}

fn text_config(
    shapes: &Shapes,
    (words, places): (&str, &str),
    (layers, widening): (usize, &str),
    activation: &str,
) -> Result<Value> {
    let width = dim(shapes, words, 1)?;
    Ok(json!({
        "model_type": "clip_text_model",
        "vocab_size": dim(shapes, words, 0)?,
        "hidden_size": width,
        "max_position_embeddings": dim(shapes, places, 0)?,
        "num_hidden_layers": layers,
        "num_attention_heads": (width / HEAD).max(1),
        "intermediate_size": dim(shapes, widening, 0)?,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
    }))
}
