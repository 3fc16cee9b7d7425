//! What a `VarBuilder` of this program reads from. candle's own reads in the stored dtype, casts on the device on one core,
//! and names neither the file nor the found shape when something does not fit.

use super::convert;
use super::error::ModelError;
use super::header::Entry;
use super::host::{HostTensors, held_dtype};
use super::part::Part;
use super::source::Bytes;
use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use safetensors::Dtype;
use std::borrow::Cow;

impl Part {
    /// A `VarBuilder` over the part's tensors by their stored (diffusers') names. A tensor is converted to the builder's
    /// dtype and brought to `device` when it is asked for, one at a time. Errors name the tensor, the file, and the expected
    /// and found shape. The files stay mapped as long as the builder lives.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> anyhow::Result<VarBuilder<'static>> {
        let backend = Backend::new(self.clone(), self.map()?);
        Ok(VarBuilder::from_backend(Box::new(backend), dtype, device.clone()))
    }

    /// [`Part::var_builder`] for a network of linear layers, which compute with f32 what they hold in half the memory: on the
    /// CPU a tensor of two or more dimensions that is stored in f16 or bf16 comes so even if f32 is wanted.
    pub fn var_builder_compact(&self, dtype: DType, device: &Device) -> anyhow::Result<VarBuilder<'static>> {
        let backend = Backend::new(self.clone(), self.map()?).compact();
        Ok(VarBuilder::from_backend(Box::new(backend), dtype, device.clone()))
    }

    /// [`Part::var_builder_compact`] for tensors that are asked for again and again: what has been read stays in the host's
    /// memory, pinned for a CUDA device where possible, in the smaller of the stored and the wanted dtype. At most
    /// [`Part::bytes_held`].
    pub fn var_builder_holding(&self, dtype: DType, device: &Device) -> anyhow::Result<VarBuilder<'static>> {
        let backend = Backend::holding(self.clone(), self.map()?).compact();
        Ok(VarBuilder::from_backend(Box::new(backend), dtype, device.clone()))
    }
}

struct Backend {
    part: Part,
    /// The part's weight files, in its order.
    files: Vec<Bytes>,
    /// Where tensors stay in the host's memory once they have been read.
    held: Option<HostTensors>,
    /// Whether matrices may stay in the half-precision dtype that they are stored in.
    compact: bool,
}

impl Backend {
    pub fn new(part: Part, files: Vec<Bytes>) -> Self {
        Self { part, files, held: None, compact: false }
    }

    /// One that reads every tensor from the files once, however often it is asked for.
    pub fn holding(part: Part, files: Vec<Bytes>) -> Self {
        Self { held: Some(HostTensors::default()), ..Self::new(part, files) }
    }

    /// The same, but on the processor matrices stored in half precision stay in it if f32 is asked for.
    pub fn compact(self) -> Self {
        Self { compact: true, ..self }
    }

    fn find(&self, name: &str) -> Result<(usize, &Entry)> {
        self.part.find(name).ok_or_else(|| {
            let near = match (self.prefix(name), self.nearest(name)) {
                (Some(prefix), _) => {
                    format!("; its tensors have the prefix {prefix:?}: save them without it, as diffusers names them")
                }
                (None, Some(near)) => format!("; the nearest name there is {near:?}"),
                (None, None) if self.part.names().any(|name| name.contains("lora_")) => {
                    "; its tensors are those of a LoRA: give it by --lora, and the model it was made for by --model"
                        .to_owned()
                }
                (None, None) => String::new(),
            };
            refused(format!("{}: no tensor {name:?}{near}", self.part.place()))
        })
    }

    fn load(&self, shard: usize, entry: &Entry, dtype: DType, device: &Device) -> Result<Tensor> {
        let Entry { name, dtype: stored, shape, range } = entry;
        let file = &self.files[shard];
        let kept = self.compact && device.is_cpu() && shape.len() > 1;
        let dtype = match held_dtype(*stored, dtype) {
            Dtype::F16 if kept => DType::F16,
            Dtype::BF16 if kept => DType::BF16,
            _ => dtype,
        };
        let tensor = match &self.held {
            Some(held) => {
                let bytes = || {
                    file.want(range);
                    let bytes = self.bytes(shard, entry)?.into_owned();
                    file.done(range);
                    Ok(bytes)
                };
                held.tensor(name, (bytes, *stored), shape, dtype, device)
            }
            None => {
                file.want(range);
                let bytes = self.bytes(shard, entry);
                let tensor = bytes.and_then(|bytes| convert::tensor(&bytes, *stored, shape, dtype, device));
                file.done(range);
                tensor
            }
        };
        tensor.map_err(|error| refused(format!("{}: tensor {:?}: {error}", self.part.show(shard), entry.name)))
    }

    /// The values of a tensor: the file's, and what LoRA files add to them, rounded to the dtype of the file.
    fn bytes(&self, shard: usize, entry: &Entry) -> Result<Cow<'_, [u8]>> {
        let stored = &self.files[shard][entry.range.clone()];
        let deltas = self.part.deltas(&entry.name);
        if deltas.is_empty() {
            return Ok(Cow::Borrowed(stored));
        }
        let mut weight = convert::tensor(stored, entry.dtype, &entry.shape, DType::F32, &Device::Cpu)?;
        for delta in deltas {
            weight = delta.add(&weight)?;
        }
        let values = weight.flatten_all()?;
        Ok(Cow::Owned(match entry.dtype {
            Dtype::F32 => values.to_vec1::<f32>()?.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Dtype::F16 => {
                values.to_dtype(DType::F16)?.to_vec1::<half::f16>()?.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            Dtype::BF16 => {
                values.to_dtype(DType::BF16)?.to_vec1::<half::bf16>()?.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            other => {
                return Err(Error::Msg(format!(
                    "{other} values cannot have a LoRA: use the model's f16, bf16 or f32 files"
                )));
            }
        }))
    }

    /// What stands before the name where training programs and user interfaces put the network into another.
    fn prefix(&self, name: &str) -> Option<&str> {
        self.part.names().find_map(|other| other.strip_suffix(name).filter(|prefix| prefix.ends_with('.')))
    }

    fn nearest(&self, name: &str) -> Option<&str> {
        const ALIKE: f64 = 0.8;
        let scored = self.part.names().map(|other| (strsim::normalized_levenshtein(name, other), other));
        let (score, near) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
        (score >= ALIKE).then_some(near)
    }
}

impl SimpleBackend for Backend {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let (shard, entry) = self.find(name)?;
        if entry.shape != shape.dims() {
            let place = self.part.show(shard);
            let (found, expected) = (&entry.shape, shape.dims());
            return Err(refused(format!("{place}: tensor {name:?} has shape {found:?}, expected {expected:?}")));
        }
        self.load(shard, entry, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let (shard, entry) = self.find(name)?;
        self.load(shard, entry, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.part.find(name).is_some()
    }
}

/// Made without `Error::wrap`, which appends a backtrace to the message when one is asked for.
fn refused(message: String) -> Error {
    Error::Wrapped(Box::new(ModelError::new(message)))
}
