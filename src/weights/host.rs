//! Weights kept in host memory until a device needs them, and the free memory of a device.
//!
//! Copies are in the smaller of the stored dtype and that of the computation, so that they never take more than the files. For a
//! CUDA device they lie in pinned memory where the system gives it: the device then fetches them by itself, several times
//! faster than from memory that may be paged out, and while it computes.

use super::convert;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::cudarc::driver::PinnedHostSlice;
use candle_core::{DType, Device, Result, Tensor};
use safetensors::{Dtype, View};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Tensors by name, each kept when it was first asked for.
#[derive(Default)]
pub(super) struct HostTensors(Mutex<HashMap<String, Arc<HostTensor>>>);

/// A tensor in the host's memory.
struct HostTensor {
    dtype: Dtype,
    bytes: Bytes,
}

enum Bytes {
    Plain(Vec<u8>),
    #[cfg(feature = "cuda")]
    Pinned(PinnedHostSlice<u8>),
}

impl HostTensors {
    /// The tensor of this name on its device. `stored` gives its bytes as they are in the file, of dtype `from`; asked once.
    pub fn tensor(
        &self,
        name: &str,
        (stored, from): (impl FnOnce() -> Result<Vec<u8>>, Dtype),
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let copy = match found {
            Some(copy) => copy,
            None => {
                let copy = Arc::new(HostTensor::new(stored()?, from, shape, dtype, device)?);
                let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                all.insert(name.to_owned(), copy.clone());
                copy
            }
        };
        convert::tensor(copy.bytes.as_slice()?, copy.dtype, shape, dtype, device)
    }
}

impl HostTensor {
    fn new(stored: Vec<u8>, from: Dtype, shape: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let kept = held_dtype(from, dtype);
        let bytes = if kept == from {
            stored
        } else {
            convert::tensor(&stored, from, shape, dtype, &Device::Cpu)?.data().into_owned()
        };
        // what is still to be converted is read by the CPU, from which pinned memory is not cached
        let bytes = if DType::try_from(kept).is_ok_and(|kept| kept == dtype) {
            Bytes::for_device(bytes, device)
        } else {
            Bytes::Plain(bytes)
        };
        Ok(Self { dtype: kept, bytes })
    }
}

/// The dtype in which a tensor stored as `from` is kept in host memory until it is used as `dtype`.
pub(super) fn held_dtype(from: Dtype, dtype: DType) -> Dtype {
    let computed = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => return from,
    };
    if computed.bitsize() <= from.bitsize() { computed } else { from }
}

impl Bytes {
    /// In memory from which the device reads fast, where there is some.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn for_device(bytes: Vec<u8>, device: &Device) -> Self {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = device {
            let pinned = || {
                // SAFETY: filled before anyone reads it.
                let mut pinned = unsafe { device.cuda_stream().context().alloc_pinned::<u8>(bytes.len()) }.ok()?;
                pinned.as_mut_slice().ok()?.copy_from_slice(&bytes);
                Some(pinned)
            };
            // the system gives no memory of no bytes, and may have no more to pin
            if let Some(pinned) = (!bytes.is_empty()).then(pinned).flatten() {
                return Self::Pinned(pinned);
            }
        }
        Self::Plain(bytes)
    }

    fn as_slice(&self) -> Result<&[u8]> {
        match self {
            Self::Plain(bytes) => Ok(bytes),
            #[cfg(feature = "cuda")]
            Self::Pinned(bytes) => bytes.as_slice().map_err(candle_core::Error::wrap),
        }
    }
}

/// Memory of a device that is free now, in bytes; none where it does not tell. The CPU's is the machine's to tell.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn free_memory(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
        return u64::try_from(free).ok();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use std::cell::Cell;

    #[test]
    fn copies_take_the_smaller_numbers_and_give_the_same_values() {
        let values: Vec<f32> = (0..1000).map(|index| (index as f32 * 0.37).sin() * 3.0).collect();
        let halves: Vec<u8> = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
        let brains: Vec<u8> = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
        let singles: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        for (bytes, from) in [(&halves, Dtype::F16), (&brains, Dtype::BF16), (&singles, Dtype::F32)] {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let (held, asked) = (HostTensors::default(), Cell::new(0));
                let stored = || {
                    asked.set(asked.get() + 1);
                    Ok(bytes.clone())
                };
                let want = convert::tensor(bytes, from, &[10, 100], dtype, &Device::Cpu).unwrap();
                for _ in 0..3 {
                    let got = held.tensor("a", (stored, from), &[10, 100], dtype, &Device::Cpu).unwrap();
                    assert_eq!((got.dtype(), got.dims()), (dtype, &[10, 100][..]));
                    assert_eq!(got.data(), want.data(), "{from} to {dtype:?}");
                }
                assert_eq!(asked.get(), 1, "the file is read once");
                let kept = held.0.lock().unwrap()["a"].bytes.as_slice().unwrap().len();
                assert_eq!(kept, 1000 * dtype.size_in_bytes().min(from.bitsize() / 8), "{from} to {dtype:?}");
            }
        }
    }

    #[test]
    fn the_cpu_tells_nothing_about_itself() {
        assert_eq!(free_memory(&Device::Cpu), None);
    }
}
