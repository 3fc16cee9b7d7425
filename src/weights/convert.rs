//! Stored bytes to a tensor of the wanted dtype on the wanted device, one tensor at a time.
//!
//! The half types and f32 convert among each other in blocks on all cores, the way every checkpoint of this program is
//! loaded; everything else goes through candle. The values are those of candle's `to_dtype` (round to nearest even).

use candle_core::{DType, Device, Error, Result, Tensor};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Elements that one thread converts at a time; its scratch of f32 stays in the first-level cache.
const BLOCK: usize = 4096;
/// Fewer elements than this are converted where they are asked for.
const PARALLEL: usize = 1 << 16;

/// A tensor of `shape` from its stored little-endian bytes, which need no alignment. The caller has checked that `bytes`
/// holds `shape` of `stored`.
pub(super) fn tensor(bytes: &[u8], stored: Dtype, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let Ok(native) = DType::try_from(stored) else {
        let quantized = [Dtype::I8, Dtype::U8, Dtype::F8_E8M0].contains(&stored);
        let remedy = if quantized { " (quantized weights): use the model's f16, bf16 or f32 files" } else { "" };
        return Err(Error::Msg(format!("{stored} values cannot be loaded{remedy}")));
    };
    // a device copies from the mapped file without a stop
    if native == dtype && !device.is_cpu() {
        return Tensor::from_raw_buffer(bytes, dtype, shape, device);
    }
    let count = shape.iter().product();
    match (stored, dtype) {
        (Dtype::F16 | Dtype::BF16 | Dtype::F32, DType::F32) => {
            let mut values = vec![0f32; count];
            blocks(bytes, width(stored), &mut values, |bytes, values| widen(stored, bytes, values));
            Tensor::from_vec(values, shape, device)
        }
        (Dtype::F16 | Dtype::BF16 | Dtype::F32, DType::F16 | DType::BF16) => {
            let mut bits = vec![0u16; count];
            blocks(bytes, width(stored), &mut bits, |bytes, bits| {
                if native == dtype {
                    return bits_of(bytes, bits);
                }
                let values = &mut [0f32; BLOCK][..bits.len()];
                widen(stored, bytes, values);
                narrow(dtype, values, bits);
            });
            if dtype == DType::F16 {
                Tensor::from_vec(bits.reinterpret_into::<f16>(), shape, device)
            } else {
                Tensor::from_vec(bits.reinterpret_into::<bf16>(), shape, device)
            }
        }
        _ => Tensor::from_raw_buffer(bytes, native, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device),
    }
}

fn width(stored: Dtype) -> usize {
    if stored == Dtype::F32 { 4 } else { 2 }
}

/// Runs `convert` over blocks of input and output, on all cores when there is enough to do.
fn blocks<T: Send>(bytes: &[u8], width: usize, out: &mut [T], convert: impl Fn(&[u8], &mut [T]) + Sync) {
    if out.len() < PARALLEL {
        out.chunks_mut(BLOCK).zip(bytes.chunks(BLOCK * width)).for_each(|(out, bytes)| convert(bytes, out));
    } else {
        out.par_chunks_mut(BLOCK).zip(bytes.par_chunks(BLOCK * width)).for_each(|(out, bytes)| convert(bytes, out));
    }
}

/// One block of stored values as f32.
fn widen(stored: Dtype, bytes: &[u8], out: &mut [f32]) {
    match stored {
        Dtype::F32 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        // the upper half of an f32
        Dtype::BF16 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        _ => {
            let bits = &mut [0u16; BLOCK][..out.len()];
            bits_of(bytes, bits);
            bits.reinterpret_cast::<f16>().convert_to_f32_slice(out);
        }
    }
}

/// One block of f32 rounded to a half type.
fn narrow(dtype: DType, values: &[f32], out: &mut [u16]) {
    if dtype == DType::F16 {
        out.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values);
    } else {
        out.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(values);
    }
}

fn bits_of(bytes: &[u8], out: &mut [u16]) {
    for (bits, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *bits = u16::from_le_bytes(*bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain way: candle's own reading and casting.
    fn plain(bytes: &[u8], stored: DType, shape: &[usize], dtype: DType) -> Tensor {
        Tensor::from_raw_buffer(bytes, stored, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn bytes_of(dtype: DType, count: usize) -> Vec<u8> {
        let special = [0.0, -0.0, 1e-8, 6e-8, -3.0e-5, 65504.0, 65520.0, 1e30, f32::INFINITY, f32::NEG_INFINITY];
        let values = (0..count).map(|index| match special.get(index % 97) {
            Some(&value) => value,
            None => (index as f32 * 0.37).sin() * 3.0f32.powi(index as i32 % 13 - 6),
        });
        match dtype {
            DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
            DType::F16 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
            DType::BF16 => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
            DType::F64 => values.flat_map(|value| f64::from(value).to_le_bytes()).collect(),
            _ => (0..count).flat_map(|index| (index as i64 - 500).to_le_bytes()).collect(),
        }
    }

    #[test]
    fn equals_candles_cast_bit_for_bit_at_any_alignment() {
        let kinds =
            [(Dtype::F32, DType::F32), (Dtype::F16, DType::F16), (Dtype::BF16, DType::BF16), (Dtype::F64, DType::F64)];
        for (stored, native) in kinds.into_iter().chain([(Dtype::I64, DType::I64)]) {
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
                // below one block, several blocks with a rest, and above the limit of one thread
                for count in [5, 3 * BLOCK + 7, PARALLEL + BLOCK + 3] {
                    let bytes = bytes_of(native, count);
                    let want = plain(&bytes, native, &[count], dtype);
                    let mut shifted = vec![0u8; bytes.len() + 1];
                    shifted[1..].copy_from_slice(&bytes);
                    for bytes in [&bytes[..], &shifted[1..]] {
                        let got = tensor(bytes, stored, &[count], dtype, &Device::Cpu).unwrap();
                        assert_eq!(got.dtype(), dtype);
                        let bits = |tensor: &Tensor| {
                            let values = tensor.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
                            values.into_iter().map(f64::to_bits).collect::<Vec<_>>()
                        };
                        assert!(bits(&got) == bits(&want), "{stored} to {dtype:?}, {count} values");
                    }
                }
            }
        }
    }

    #[test]
    fn keeps_shapes_without_elements_and_refuses_other_types() {
        let empty = tensor(&[], Dtype::F16, &[0, 3], DType::F32, &Device::Cpu).unwrap();
        assert_eq!(empty.dims(), [0, 3]);
        let scalar = tensor(&1.5f32.to_le_bytes(), Dtype::F32, &[], DType::F32, &Device::Cpu).unwrap();
        assert_eq!(scalar.to_scalar::<f32>().unwrap(), 1.5);
        let error = tensor(&[1], Dtype::BOOL, &[1], DType::F32, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("BOOL"), "{error}");
    }
}
