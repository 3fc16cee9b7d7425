//! The operations of a device against those of the CPU in f32: what `doctor` runs on a GPU.

use super::conv::{self, Conv3d};
use super::linear::Linear;
use super::norm::{self, Modulation};
use super::rope::qk_norm_rope;
use super::sdpa::Sdpa;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;

/// One operation and how far it is from the CPU's, as relative L2.
#[derive(Debug, Clone)]
pub struct OperationCheck {
    pub what: String,
    pub distance: f64,
    /// What rounding explains.
    pub limit: f64,
}

impl OperationCheck {
    /// False for NaN as well.
    pub fn is_close(&self) -> bool {
        self.distance <= self.limit
    }
}

type Operation = (&'static str, fn(&TestTensors) -> Result<Tensor>);

const OPERATIONS: [Operation; 10] = [
    ("attention, heads of 64", |make| attention(make, 64)),
    ("attention, heads of 80", |make| attention(make, 80)),
    ("attention, heads of 128", |make| attention(make, 128)),
    ("probed attention", |make| {
        let [q, k] = [1.0, 2.0].map(|seed| make.tensor(&[2, 3, 150, 64], seed));
        let columns = Tensor::new(&[0_u32, 7, 149], &make.device)?;
        Sdpa::default().probe(&q?, &k?, 0.3, &columns)
    }),
    ("layer norm with modulation", |make| {
        let x = make.tensor(&[2, 9, 1920], 3.0)?;
        norm::layer_norm_modulate(&x, Some(&make.tensor(&[1920], 4.0)?), None, 1e-5, &parts(make, 4, 5)?)
    }),
    ("gated residual", |make| {
        let (x, y) = (make.tensor(&[2, 9, 1920], 3.0)?, make.tensor(&[2, 9, 1920], 5.0)?);
        let gates: Vec<_> = parts(make, 4, 5)?.into_iter().map(|part| (part.tokens, part.shift)).collect();
        norm::gate_residual(&x, &y, &gates)
    }),
    ("norm and rotation of heads", |make| {
        let joined = make.tensor(&[2, 33, 3, 5, 64], 6.0)?;
        let x = joined.narrow(2, 1, 1)?.squeeze(2)?.transpose(1, 2)?;
        let table = |seed| make.exact(&[26, 32], seed);
        let (cos, sin) = (table(7.0)?, table(8.0)?);
        qk_norm_rope(&x, &make.tensor(&[64], 9.0)?, &make.tensor(&[64], 10.0)?, 1e-6, Some((&cos, &sin)), 7)
    }),
    ("group norm with SiLU", |make| {
        let (x, affine) = (make.tensor(&[3, 64, 24, 36], 11.0)?, make.tensor(&[64], 12.0)?);
        norm::group_norm_silu(&x, 32, &affine, &affine, 1e-6)
    }),
    ("linear layer with GELU", |make| {
        let layer = Linear::new(make.tensor(&[256, 192], 13.0)?, Some(make.tensor(&[256], 14.0)?), make.dtype)?;
        layer.forward_gelu_tanh(&(make.tensor(&[2, 40, 192], 15.0)? * 0.2)?)
    }),
    ("convolution over frames", |make| {
        let conv = convolution(make)?;
        conv.forward(&make.tensor(&[5, 32, 20, 30], 16.0)?)
    }),
];

/// Runs every operation in every number type that runs use on `device`.
pub fn check(device: &Device) -> Result<Vec<OperationCheck>> {
    let kinds: &[(DType, f64)] = match device {
        Device::Cpu => &[(DType::F32, 1e-5)],
        _ => &[(DType::F32, 1e-4), (DType::F16, 5e-3), (DType::BF16, 3e-2)],
    };
    let mut checked = Vec::new();
    for (dtype, limit) in kinds {
        for (what, operation) in OPERATIONS {
            let there = operation(&TestTensors { device: device.clone(), dtype: *dtype, rounded: *dtype })?;
            let here = operation(&TestTensors { device: Device::Cpu, dtype: DType::F32, rounded: *dtype })?;
            let there = there.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
            let square = |x: &Tensor| x.sqr()?.sum_all()?.to_vec0::<f32>();
            let distance = f64::from(square(&(there - &here)?)? / square(&here.contiguous()?)?).sqrt();
            checked.push(OperationCheck { what: format!("{what} in {}", dtype.as_str()), distance, limit: *limit });
        }
    }
    Ok(checked)
}

/// Makes the same tensors on both devices.
struct TestTensors {
    device: Device,
    dtype: DType,
    /// What the numbers can be told apart in.
    rounded: DType,
}

impl TestTensors {
    fn tensor(&self, dims: &[usize], seed: f64) -> Result<Tensor> {
        self.waves(dims, seed)?.to_dtype(self.rounded)?.to_dtype(self.dtype)?.to_device(&self.device)
    }

    /// In f32, whatever the others are in.
    fn exact(&self, dims: &[usize], seed: f64) -> Result<Tensor> {
        self.waves(dims, seed)?.to_device(&self.device)
    }

    fn waves(&self, dims: &[usize], seed: f64) -> Result<Tensor> {
        let count: usize = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i as f64 + 1.0) * (0.731 + 0.117 * seed)).sin() as f32).collect();
        Tensor::from_vec(values, dims, &Device::Cpu)
    }
}

fn attention(make: &TestTensors, head: usize) -> Result<Tensor> {
    let [q, k, v] = [1.0, 2.0, 3.0].map(|seed| {
        let rows = if seed == 1.0 { 150 } else { 201 };
        make.tensor(&[2, rows, 3, head], seed)?.transpose(1, 2)
    });
    let (values, sums) = Sdpa::default().attend_with_log_sum_exp(&q?, &k?, &v?, 0.3)?;
    // both in one tensor: [B, N, L, D + 1]
    Tensor::cat(&[values.contiguous()?, sums.unsqueeze(3)?.to_dtype(make.dtype)?], 3)
}

fn parts(make: &TestTensors, first: usize, second: usize) -> Result<[Modulation; 2]> {
    let chunks = make.tensor(&[2, 4 * 1920], 17.0)?.chunk(4, 1)?;
    let part = |tokens, i: usize| Modulation { tokens, shift: chunks[i].clone(), scale: chunks[i + 1].clone() };
    Ok([part(first, 0), part(second, 2)])
}

fn convolution(make: &TestTensors) -> Result<Conv3d> {
    let tensors = [("weight", &[16, 32, 3, 3, 3][..], 18.0), ("bias", &[16], 19.0)];
    let tensors = tensors.into_iter().map(|(name, dims, seed)| Ok((name.to_owned(), make.tensor(dims, seed)?)));
    let tensors = tensors.collect::<Result<HashMap<String, Tensor>>>()?;
    conv::conv3d(32, 16, 3, 3, VarBuilder::from_tensors(tensors, make.dtype, &make.device))
}

/// What there is to say of a device beside its name: the GPU, and how its kernels were compiled.
pub fn describe(device: &Device) -> Option<String> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        let stream = gpu.cuda_stream();
        let (name, (major, minor)) = (stream.context().name().ok()?, stream.context().compute_capability().ok()?);
        let kernels = match super::cuda::arch((major, minor)) {
            Some(arch) => format!("fused kernels for {arch}"),
            None => "too old for the fused kernels".to_owned(),
        };
        return Some(format!("{name}, compute capability {major}.{minor}, {kernels}"));
    }
    let _ = device;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_agrees_with_itself_and_nothing_is_empty() {
        let checked = check(&Device::Cpu).unwrap();
        assert_eq!(checked.len(), OPERATIONS.len());
        for one in &checked {
            assert!(one.is_close(), "{one:?}");
        }
        assert!(!OperationCheck { what: String::new(), distance: f64::NAN, limit: 1.0 }.is_close());
        assert!(describe(&Device::Cpu).is_none());
    }

    #[test]
    fn a_wrong_kernel_would_be_seen() {
        // the plain attention in half precision is another program than the CPU's kernel
        let make = |dtype| TestTensors { device: Device::Cpu, dtype, rounded: DType::F16 };
        let (half, whole) = (attention(&make(DType::F16), 64).unwrap(), attention(&make(DType::F32), 64).unwrap());
        let difference = (half.to_dtype(DType::F32).unwrap() - &whole).unwrap();
        let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_vec0::<f32>().unwrap().sqrt();
        let distance = norm(&difference) / norm(&whole);
        assert!(distance > 1e-6 && distance < 5e-3, "{distance}");
    }
}
