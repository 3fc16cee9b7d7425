//! OpenCLIP's visual tower under the names of transformers' `CLIPVisionModelWithProjection`.

use super::checkpoint::Stored;
use super::{Tensors, lacking};
use crate::weights::error::{Result, refuse};
use serde_json::{Value, json};

/// Width of a head in all of OpenCLIP's towers that StreamingT2V and VidXTend use.
const HEAD: usize = 80;
/// Where the tower stands in a checkpoint of the whole network.
const TOWER: &str = "visual.";

/// What a name that stays whole becomes.
const RENAMED: [(&str, &str); 8] = [
    ("class_embedding", "vision_model.embeddings.class_embedding"),
    ("positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    // the spelling is transformers'
    ("ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("ln_post.weight", "vision_model.post_layernorm.weight"),
    ("ln_post.bias", "vision_model.post_layernorm.bias"),
    ("proj", "visual_projection.weight"),
];

/// The modules of a layer.
const LAYER: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// Takes the tower out of tensors of OpenCLIP; the text tower is dropped. Returns it with its `config.json`.
///
/// # Errors
/// A tensor of the tower that is not known, or one that its configuration follows from and that is missing.
pub fn tower(tensors: Tensors) -> Result<(Value, Tensors)> {
    let visual = tensors.into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix(TOWER)?.to_owned(), tensor)));
    let visual: Tensors = visual.collect();
    let shape = |name: &str, dims: usize| match visual.get(name) {
        Some(tensor) if tensor.shape.len() == dims => Ok(tensor.shape.clone()),
        Some(tensor) => {
            refuse!("tensor \"{TOWER}{name}\" has shape {:?}, and {dims} dimensions are right", tensor.shape)
        }
        None => refuse!("tensor \"{TOWER}{name}\" is missing: no visual tower of OpenCLIP"),
    };
    let [width, _, patch, _] = shape("conv1.weight", 4)?[..] else { refuse!("no patches") };
    let places = shape("positional_embedding", 2)?[0];
    let projection = shape("proj", 2)?[1];
    let inner = shape("transformer.resblocks.0.mlp.c_fc.weight", 2)?[0];
    let side = places.saturating_sub(1).isqrt();
    if width == 0 || !width.is_multiple_of(HEAD) || side * side + 1 != places {
        refuse!(
            "the visual tower has a width of {width} and {places} places: heads of {HEAD} and square pictures are right"
        );
    }
    let layers = visual.keys().filter(|name| name.ends_with(".ln_1.weight")).count();
    let config = json!({
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": width / HEAD,
        "num_channels": 3,
        "image_size": side * patch,
        "patch_size": patch,
        "projection_dim": projection,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    });
    let mut named = Tensors::new();
    for (name, tensor) in visual {
        renamed(&name, tensor, &mut named)?;
    }
    let modules = LAYER.iter().map(|(_, module)| (*module).to_owned());
    let modules: Vec<String> = modules.chain(["q", "k", "v"].map(|of| format!("self_attn.{of}_proj"))).collect();
    let modules = (0..layers).flat_map(|layer| modules.iter().map(move |name| (layer, name)));
    let in_layers = modules.flat_map(|(layer, name)| {
        ["weight", "bias"].map(|kind| format!("vision_model.encoder.layers.{layer}.{name}.{kind}"))
    });
    let expected = RENAMED.iter().map(|(_, name)| (*name).to_owned()).chain(in_layers);
    lacking("the image encoder", expected, &named)?;
    Ok((config, named))
}

fn renamed(name: &str, tensor: Stored, named: &mut Tensors) -> Result<()> {
    if let Some((_, new)) = RENAMED.iter().find(|(old, _)| *old == name) {
        let tensor = if name == "proj" { tensor.transposed() } else { tensor };
        named.insert((*new).to_owned(), tensor);
        return Ok(());
    }
    let layer = name.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.'));
    let Some((number, module)) = layer.filter(|(number, _)| number.parse::<u16>().is_ok()) else {
        refuse!("tensor \"{TOWER}{name}\" is none that a visual tower has");
    };
    let prefix = format!("vision_model.encoder.layers.{number}");
    if let Some(kind) = module.strip_prefix("attn.in_proj_") {
        let rows = tensor.shape.first().copied().unwrap_or(0);
        if rows == 0 || !rows.is_multiple_of(3) {
            refuse!("tensor \"{TOWER}{name}\" has {rows} rows, which are not of queries, keys and values");
        }
        for (at, projection) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
            named.insert(format!("{prefix}.self_attn.{projection}.{kind}"), tensor.rows(at * rows / 3, rows / 3));
        }
        return Ok(());
    }
    let known = module.rsplit_once('.').and_then(|(module, kind)| {
        let (_, new) = LAYER.iter().find(|(old, _)| *old == module)?;
        Some(format!("{prefix}.{new}.{kind}"))
    });
    match known {
        Some(new) => named.insert(new, tensor),
        None => refuse!("tensor \"{TOWER}{name}\" is none that a visual tower has"),
    };
    Ok(())
}
