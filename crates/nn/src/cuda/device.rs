//! Launches on a GPU, and the operations made of them.

use super::launch::{Arg, Capability, Launch};
use super::{attention, groups::Groups, rows};
use crate::norm::Modulation;
use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, sys};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{Device, Result, Shape, Storage, Tensor, bail};

/// The compute capability of the GPU that holds `x`; `None` where another device does.
fn capability(x: &Tensor) -> Result<Option<Capability>> {
    match x.device() {
        Device::Cuda(device) => device.cuda_stream().context().compute_capability().w().map(Some),
        _ => Ok(None),
    }
}

/// Attention `[B, N, Lq, D]`, whose storage is that of `[B, Lq, N, D]`, and its log-sum-exps `[B, N, Lq]`.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Option<(Tensor, Tensor)>> {
    let Some(capability) = capability(q)? else { return Ok(None) };
    let Some(launch) = attention::attention(capability, q, k, v, scale)? else { return Ok(None) };
    let mut done = run(&launch)?.into_iter();
    match (done.next(), done.next()) {
        (Some(values), Some(sums)) => Ok(Some((values.transpose(1, 2)?, sums))),
        _ => bail!("the attention kernel has two outputs"),
    }
}

/// Probabilities `[B, N, Lq, J]` of the keys `columns`. What the values would be is computed as well and thrown away.
pub fn probe(q: &Tensor, k: &Tensor, scale: f64, columns: &Tensor) -> Result<Option<Tensor>> {
    let Some(capability) = capability(q)? else { return Ok(None) };
    let Some((_, sums)) = attend(q, k, k, scale)? else { return Ok(None) };
    match attention::probe(capability, q, k, scale, columns, &sums)? {
        Some(launch) => first(run(&launch)?),
        None => Ok(None),
    }
}

pub fn layer_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f64,
    parts: &[Modulation],
) -> Result<Option<Tensor>> {
    let Some(capability) = capability(x)? else { return Ok(None) };
    match rows::layer_norm(capability, x, weight, bias, eps, parts)? {
        Some(launch) => first(run(&launch)?),
        None => Ok(None),
    }
}

pub fn gate_residual(residual: &Tensor, x: &Tensor, gates: &[(usize, Tensor)]) -> Result<Option<Tensor>> {
    let Some(capability) = capability(x)? else { return Ok(None) };
    match rows::gate_residual(capability, residual, x, gates)? {
        Some(launch) => first(run(&launch)?),
        None => Ok(None),
    }
}

pub fn bias_gelu(x: &Tensor, bias: &Tensor) -> Result<Option<Tensor>> {
    let Some(capability) = capability(x)? else { return Ok(None) };
    match rows::bias_gelu(capability, x, bias)? {
        Some(launch) => first(run(&launch)?),
        None => Ok(None),
    }
}

/// `[B, N, L, D]`, whose storage is that of `[B, L, N, D]`.
pub fn qk_norm_rope(
    x: &Tensor,
    affine: (&Tensor, &Tensor, f64),
    rotary: Option<(&Tensor, &Tensor)>,
    text: usize,
) -> Result<Option<Tensor>> {
    let Some(capability) = capability(x)? else { return Ok(None) };
    match rows::qk_norm_rope(capability, x, affine, rotary, text)? {
        Some(launch) => first(run(&launch)?)?.map(|y| y.transpose(1, 2)).transpose(),
        None => Ok(None),
    }
}

pub fn group_norm(
    x: &Tensor,
    groups: usize,
    (weight, bias): (&Tensor, &Tensor),
    eps: f64,
    silu: bool,
    condition: Option<(&Tensor, &Tensor, &[u32])>,
) -> Result<Option<Tensor>> {
    let Some(capability) = capability(x)? else { return Ok(None) };
    let norm = Groups { groups, weight, bias, eps, silu, condition };
    let x = &super::launch::whole(x)?; // once for both readings
    let Some(launch) = norm.moments(capability, x)? else { return Ok(None) };
    let Some(moments) = first(run(&launch)?)? else { return Ok(None) };
    let Some(launch) = norm.totals(capability, x, moments)? else { return Ok(None) };
    let Some(totals) = first(run(&launch)?)? else { return Ok(None) };
    match norm.apply(capability, x, totals)? {
        Some(launch) => first(run(&launch)?),
        None => Ok(None),
    }
}

fn first(outputs: Vec<Tensor>) -> Result<Option<Tensor>> {
    Ok(outputs.into_iter().next())
}

/// An argument where the driver reads it.
enum Slot {
    Pointer(u64),
    I32(i32),
    I64(i64),
    F32(f32),
}

macro_rules! each_slice {
    ($slice:expr, $x:ident => $found:expr) => {
        match $slice {
            CudaStorageSlice::F32($x) => $found,
            CudaStorageSlice::F16($x) => $found,
            CudaStorageSlice::BF16($x) => $found,
            CudaStorageSlice::U32($x) => $found,
            _ => bail!("no kernel takes tensors of this type"),
        }
    };
}

/// Hands a launch to the driver, on the stream of the tensors' device; its outputs.
fn run(launch: &Launch) -> Result<Vec<Tensor>> {
    let Some(Device::Cuda(device)) = launch.inputs.first().map(Tensor::device) else {
        bail!("{} needs tensors on a GPU", launch.ptx.name)
    };
    let facts = launch.ptx.facts()?;
    let stream = device.cuda_stream();
    let function = device.get_or_load_custom_func(facts.entry, &launch.ptx.module(), &launch.ptx.text)?;
    if facts.shared > 48 << 10 {
        let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(most, facts.shared as i32).w()?;
    }
    let mut made = Vec::with_capacity(launch.outputs.len());
    for (dtype, dims) in &launch.outputs {
        // SAFETY: the kernels write every number of their outputs, which the twins' tests hold.
        made.push(unsafe { device.alloc_uninit(&Shape::from(&dims[..]), *dtype)? });
    }
    {
        let locked: Vec<_> = launch.inputs.iter().map(|x| x.storage_and_layout()).collect();
        // They record what waits for what when they are dropped, after the launch.
        let mut guards = Vec::with_capacity(locked.len() + made.len());
        let mut inputs = Vec::with_capacity(locked.len());
        for (storage, layout) in &locked {
            let Storage::Cuda(storage) = &**storage else { bail!("{} needs tensors on a GPU", launch.ptx.name) };
            if !storage.device.same_device(device) {
                bail!("{} needs tensors on one GPU", launch.ptx.name)
            }
            let (pointer, guard) = each_slice!(&storage.slice, x => x.device_ptr(&stream));
            let size = match &storage.slice {
                CudaStorageSlice::F16(_) | CudaStorageSlice::BF16(_) => 2,
                _ => 4,
            };
            inputs.push(pointer + (layout.start_offset() * size) as u64);
            guards.push(guard);
        }
        let mut outputs = Vec::with_capacity(made.len());
        for storage in &mut made {
            let (pointer, guard) = each_slice!(&mut storage.slice, x => x.device_ptr_mut(&stream));
            outputs.push(pointer);
            guards.push(guard);
        }
        let mut slots = Vec::with_capacity(launch.args.len() + 2);
        for arg in &launch.args {
            slots.push(match *arg {
                Arg::Input(i) => Slot::Pointer(inputs[i]),
                Arg::Output(i) => Slot::Pointer(outputs[i]),
                Arg::I32(value) => Slot::I32(value),
                Arg::I64(value) => Slot::I64(value),
                Arg::F32(value) => Slot::F32(value),
            });
        }
        slots.extend([Slot::Pointer(0), Slot::Pointer(0)]); // Triton's scratch memory and profiler, which no kernel here uses
        let mut builder = function.builder();
        for slot in &slots {
            match slot {
                Slot::Pointer(value) => builder.arg(value),
                Slot::I32(value) => builder.arg(value),
                Slot::I64(value) => builder.arg(value),
                Slot::F32(value) => builder.arg(value),
            };
        }
        let [x, y, z] = launch.grid;
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (32 * facts.warps, 1, 1), shared_mem_bytes: facts.shared };
        // SAFETY: number, order and types of the arguments are those of the PTX (a test compares them for every kernel), and
        // no kernel leaves the tensors: the tests of `launch`'s users run all of them with every access checked.
        unsafe { builder.launch(config) }.w()?;
    }
    let outputs = made.into_iter().zip(&launch.outputs);
    Ok(outputs
        .map(|(storage, (_, dims))| Tensor::from_storage(Storage::Cuda(storage), &dims[..], BackpropOp::none(), false))
        .collect())
}
