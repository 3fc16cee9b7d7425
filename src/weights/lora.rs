//! LoRA files (arXiv 2106.09685): what they add to the weights of a model, `W + scale up down`, merged where weights are read. So a run
//! is that of a model whose files hold the merged weights, rounded to the dtype that these are stored in.
//!
//! Three forms of names: kohya's (`lora_unet_.._to_q.lora_down.weight`, `lora_te_..`, each with an `alpha`), PEFT's as diffusers writes them
//! (`unet...to_q.lora_A.weight`; alphas in the file's metadata), and diffusers' older ones (`..to_q.lora.down.weight`,
//! `..processor.to_q_lora.down.weight`, `..lora_linear_layer.down.weight`). The scale is alpha / rank, or 1 where there is no alpha.

use super::convert;
use super::error::{ModelError, Result, refuse};
use super::header::{Entry, Header};
use super::source::Bytes;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The weights of a part that a file may add to.
pub(super) struct Target<'a> {
    /// The part's name, which diffusers' names begin with.
    pub part: &'a str,
    /// What kohya's names begin with.
    pub prefix: String,
    /// Name and shape of each tensor.
    pub tensors: Vec<(String, Vec<usize>)>,
}

/// A LoRA file.
#[derive(Debug)]
pub(super) struct LoraFile {
    pub place: String,
    pub bytes: Bytes,
}

/// What one file adds to one tensor.
#[derive(Debug, Clone)]
pub(super) struct Delta {
    file: Arc<LoraFile>,
    /// `[out, rank]`
    up: Entry,
    /// `[rank, in]`
    down: Entry,
    scale: f64,
}

/// By part and tensor, what a file adds.
pub(super) type Deltas = BTreeMap<String, BTreeMap<String, Delta>>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Up,
    Down,
    Alpha,
}

/// Ends of names.
const ENDS: [(&str, Role); 9] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".alpha", Role::Alpha),
];
/// Ends of names of the oldest form, whose modules are those of attention processors.
const OLDEST: [(&str, Role); 2] = [("_lora.down.weight", Role::Down), ("_lora.up.weight", Role::Up)];

/// The module that a name of a file is about, and what of it.
fn module(name: &str) -> Option<(String, Role)> {
    if let Some((module, role)) = ENDS.iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, *role))) {
        return Some((module.to_owned(), role));
    }
    let (module, role) = OLDEST.iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, *role)))?;
    let module = module.replacen(".processor.", ".", 1);
    Some((if module.ends_with(".to_out") { format!("{module}.0") } else { module }, role))
}

/// The tensors that may be added to, found by the names of files.
struct Names<'a> {
    targets: &'a [Target<'a>],
    /// By prefix and module with underscores, part and tensor.
    kohya: BTreeMap<String, (usize, usize)>,
    /// By part and module.
    dotted: BTreeMap<String, (usize, usize)>,
}

impl<'a> Names<'a> {
    fn new(targets: &'a [Target<'a>]) -> Self {
        let (mut kohya, mut dotted) = (BTreeMap::new(), BTreeMap::new());
        for (at, target) in targets.iter().enumerate() {
            for (index, (name, shape)) in target.tensors.iter().enumerate() {
                let Some(module) = name.strip_suffix(".weight").filter(|_| shape.len() >= 2) else { continue };
                // a text tower is stored with this or without
                let plain = module.strip_prefix(TOWER).unwrap_or(module);
                for module in [plain.to_owned(), format!("{TOWER}{plain}")] {
                    kohya.insert(format!("{}{}", target.prefix, module.replace('.', "_")), (at, index));
                    dotted.insert(format!("{}.{module}", target.part), (at, index));
                    if at == 0 {
                        dotted.insert(module, (at, index)); // the denoiser's may stand without its part
                    }
                }
            }
        }
        Self { targets, kohya, dotted }
    }

    fn find(&self, module: &str) -> Option<(usize, usize)> {
        self.kohya.get(module).or_else(|| self.dotted.get(module)).copied()
    }
}

const TOWER: &str = "text_model.";

/// What was found of a module.
#[derive(Default)]
struct Found {
    up: Option<Entry>,
    down: Option<Entry>,
    alpha: Option<f64>,
    module: String,
}

/// What a file adds to the weights of the targets, `weight` times. The first target is the denoiser.
///
/// # Errors
/// Names of no layer, layers of which half is there, and shapes that do not fit.
pub(super) fn deltas(file: &Arc<LoraFile>, weight: f64, targets: &[Target]) -> Result<Deltas> {
    let named = |error: ModelError| error.within(&file.place);
    let header = Header::parse(&file.bytes).map_err(named)?;
    let metadata = metadata(&file.bytes);
    let names = Names::new(targets);
    let mut found = BTreeMap::<(usize, usize), Found>::new();
    let mut unknown = Vec::new();
    let all = header.entries.len();
    for entry in header.entries {
        let place = module(&entry.name).and_then(|(module, role)| Some((names.find(&module)?, role, module)));
        let Some((place, role, module)) = place else {
            unknown.push(entry.name);
            continue;
        };
        let found = found.entry(place).or_default();
        found.module = module;
        match role {
            Role::Up => found.up = Some(entry),
            Role::Down => found.down = Some(entry),
            Role::Alpha => found.alpha = Some(number(file, &entry)?),
        }
    }
    if !unknown.is_empty() {
        let shown: Vec<String> = unknown.iter().take(3).map(|name| format!("{name:?}")).collect();
        refuse!(
            "{}: {} of its {all} tensors are of no layer of this model, as {}; use a LoRA file made for this kind of model",
            file.place,
            unknown.len(),
            shown.join(", ")
        );
    }
    let mut deltas = Deltas::new();
    for ((at, index), found) in found {
        let (name, shape) = &names.targets[at].tensors[index];
        let part = names.targets[at].part;
        let scale = found.scale(part, metadata.as_ref()).map_err(named)? * weight;
        let delta = found.delta(file, shape, scale).map_err(named)?;
        deltas.entry(part.to_owned()).or_default().insert(name.clone(), delta);
    }
    if deltas.is_empty() {
        refuse!("{}: holds no tensors: no LoRA file", file.place);
    }
    Ok(deltas)
}

impl Found {
    /// Alpha / rank, from the file's own alpha or its metadata; 1 where there is none.
    fn scale(&self, part: &str, metadata: Option<&Metadata>) -> Result<f64> {
        let rank = self.down.as_ref().and_then(|down| down.shape.first()).copied().unwrap_or(1).max(1) as f64;
        if let Some(alpha) = self.alpha {
            return Ok(alpha / rank);
        }
        let Some(metadata) = metadata else { return Ok(1.0) };
        let of = |key: &str| metadata.0.get(&format!("{part}.{key}"));
        let set = |key: &str| of(key).and_then(serde_json::Value::as_bool).unwrap_or(false);
        if set("use_dora") {
            refuse!("DoRA (use_dora), which vidgen does not compute; use a LoRA file");
        }
        let module = self.module.strip_prefix(part).map_or(self.module.as_str(), |rest| rest.trim_start_matches('.'));
        let module = module.strip_prefix(TOWER).unwrap_or(module);
        let own = of("alpha_pattern").and_then(serde_json::Value::as_object).and_then(|patterns| {
            let fits = |key: &str| module == key || module.ends_with(&format!(".{key}"));
            patterns.iter().find(|(key, _)| fits(key.strip_prefix(TOWER).unwrap_or(key))).map(|(_, alpha)| alpha)
        });
        let Some(alpha) = own.or_else(|| of("lora_alpha")).and_then(serde_json::Value::as_f64) else { return Ok(1.0) };
        Ok(alpha / if set("use_rslora") { rank.sqrt() } else { rank })
    }

    fn delta(self, file: &Arc<LoraFile>, shape: &[usize], scale: f64) -> Result<Delta> {
        let module = self.module;
        let (Some(up), Some(down)) = (self.up, self.down) else {
            refuse!("module {module:?} has only one of its two factors; the file is not whole");
        };
        let out = shape.first().copied().unwrap_or(0);
        let inside: usize = shape[1..].iter().product();
        let rank = down.shape.first().copied().unwrap_or(0);
        let flat = |entry: &Entry| entry.shape.iter().skip(1).product::<usize>();
        let fits = up.shape.first() == Some(&out) && flat(&up) == rank && flat(&down) == inside && rank > 0;
        if !fits || up.shape.len() < 2 || down.shape.len() < 2 {
            refuse!(
                "module {module:?} has factors of shapes {:?} and {:?}, and the weight has {shape:?}; use a LoRA file made for this kind of \
                 model",
                up.shape,
                down.shape
            );
        }
        if !scale.is_finite() {
            refuse!("module {module:?}: its alpha is no number");
        }
        Ok(Delta { file: file.clone(), up, down, scale })
    }
}

impl Delta {
    /// The weight, in f32 on the CPU, with what is added.
    pub fn add(&self, weight: &Tensor) -> candle_core::Result<Tensor> {
        let factor = |entry: &Entry| {
            let bytes = &self.file.bytes[entry.range.clone()];
            let tensor = convert::tensor(bytes, entry.dtype, &entry.shape, DType::F32, &Device::Cpu)?;
            tensor.flatten_from(1)
        };
        let product = factor(&self.up)?.matmul(&factor(&self.down)?)?; // [out, in]
        weight + (product.reshape(weight.shape())? * self.scale)?
    }
}

/// A number that is kept as a tensor.
fn number(file: &LoraFile, entry: &Entry) -> Result<f64> {
    if entry.elements() != 1 || entry.dtype == Dtype::BOOL {
        refuse!("{}: tensor {:?} has shape {:?}, and is one number", file.place, entry.name, entry.shape);
    }
    let read = || {
        convert::tensor(&file.bytes[entry.range.clone()], entry.dtype, &[1], DType::F32, &Device::Cpu)?.to_vec1::<f32>()
    };
    match read() {
        Ok(values) => Ok(values.first().copied().map_or(f64::NAN, f64::from)),
        Err(error) => refuse!("{}: tensor {:?}: {error}", file.place, entry.name),
    }
}

/// The settings that PEFT trained an adapter with, by part, as diffusers writes them into the file.
#[derive(Debug)]
struct Metadata(serde_json::Map<String, serde_json::Value>);

fn metadata(file: &[u8]) -> Option<Metadata> {
    #[derive(Deserialize)]
    struct Texts {
        #[serde(rename = "__metadata__")]
        texts: BTreeMap<String, String>,
    }
    // the header was parsed, so this is within the file
    let (length, rest) = file.split_first_chunk::<8>()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let Texts { texts } = serde_json::from_slice(header).ok()?;
    serde_json::from_str(texts.get("lora_adapter_metadata")?).ok().map(Metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_module_and_role() {
        let of = |name: &str| module(name).map(|(module, role)| format!("{module} {role:?}"));
        for (name, wanted) in [
            ("unet.a.to_q.lora_A.weight", "unet.a.to_q Down"),
            ("lora_unet_a_to_out_0.lora_up.weight", "lora_unet_a_to_out_0 Up"),
            ("unet.a.attn1.processor.to_out_lora.up.weight", "unet.a.attn1.to_out.0 Up"),
            ("unet.a.attn1.processor.to_q_lora.down.weight", "unet.a.attn1.to_q Down"),
            ("text_encoder.a.fc1.lora_linear_layer.down.weight", "text_encoder.a.fc1 Down"),
            ("lora_te_a.alpha", "lora_te_a Alpha"),
        ] {
            assert_eq!(of(name).as_deref(), Some(wanted));
        }
        for name in ["a.weight", "lora_unet_a.hada_w1_a", "lora_unet_a.lora_mid.weight", "lora_unet_a.dora_scale"] {
            assert_eq!(of(name), None);
        }
    }
}
