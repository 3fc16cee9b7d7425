//! Control networks in one file with the names of ControlNet's own program (`cldm`), below `control_model.` or without a prefix, as a folder
//! in diffusers' layout. What shapes do not say is as in the published ones: see `original`, and pictures in RGB.
//!
//! After `convert_controlnet_checkpoint` of diffusers.

use super::original::{SAME, dim, down_config, has, numbers, take, way_down};
use crate::models::original::{Original, Renamed, Shapes};
use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

/// Where a file has such a network.
const PREFIXES: [&str; 2] = ["control_model.", ""];
const HINT: &str = "input_hint_block.";
/// Its tensors are at the top of the folder.
const PART: &str = "";

/// A file as the folder of a control network; none where it is no such file.
///
/// # Errors
/// Networks of larger models, and such that lack something.
pub fn original_control(shapes: &Shapes) -> Result<Option<Original>> {
    let found = PREFIXES.into_iter().find(|prefix| has(shapes, &format!("{prefix}{HINT}")));
    let Some(prefix) = found else { return Ok(None) };
    if has(shapes, &format!("{prefix}label_emb.")) {
        bail!("a control network of Stable Diffusion XL: use one of 1.x or 2.x")
    }
    let mut tensors = Vec::new();
    let blocks = way_down(shapes, PART, prefix, &mut tensors)?;
    let channels = hint(shapes, &format!("{prefix}{HINT}"), &mut tensors)?;
    let zeros = numbers(shapes, &format!("{prefix}zero_convs."));
    ensure!(zeros == blocks.0, "{} input blocks and {zeros} zero convolutions", blocks.0);
    let mut put = |from: &str, to: &str| take(shapes, PART, &format!("{prefix}{from}"), to, &SAME, &mut tensors);
    for index in 0..zeros {
        put(&format!("zero_convs.{index}.0."), &format!("controlnet_down_blocks.{index}."));
    }
    put("middle_block_out.0.", "controlnet_mid_block.");
    let mut config = down_config(shapes, prefix, blocks)?;
    config.extend([
        ("_class_name".to_owned(), json!("ControlNetModel")),
        ("conditioning_embedding_out_channels".to_owned(), json!(channels)),
        ("controlnet_conditioning_channel_order".to_owned(), json!("rgb")),
    ]);
    let files = [("config.json".to_owned(), Value::Object(config))].into();
    Ok(Some(Original { files, tensors }))
}

/// What makes of pictures what is added to the latents' features: convolutions at even places, two a level between the first and
/// the last. Returns the channels of the levels.
fn hint(shapes: &Shapes, prefix: &str, into: &mut Vec<Renamed>) -> Result<Vec<usize>> {
    let last = numbers(shapes, prefix).saturating_sub(1);
    ensure!((4..=128).contains(&last) && last.is_multiple_of(2), "a hint encoder of {} places", last + 1);
    for at in (0..=last).step_by(2) {
        let name = match at {
            0 => "conv_in".to_owned(),
            _ if at == last => "conv_out".to_owned(),
            _ => format!("blocks.{}", at / 2 - 1),
        };
        take(shapes, PART, &format!("{prefix}{at}."), &format!("controlnet_cond_embedding.{name}."), &SAME, into);
    }
    // the inputs of the first convolution of each level, and of the last one of all
    (2..=last).step_by(4).map(|at| dim(shapes, &format!("{prefix}{at}.weight"), 1)).collect()
}
