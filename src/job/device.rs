//! The device, the attention kernel and the CPU's threads.

use super::values::{Attention, DeviceSpec};
use crate::nn::kernel::{Kernel, KernelTarget};
use anyhow::{Result, anyhow, bail};
use candle_core::Device;
use std::sync::OnceLock;

/// The device of a name, if it is there.
pub fn device(spec: DeviceSpec) -> Result<Device> {
    let absent = |name: &str, ordinal: usize, feature: &str, built: bool| {
        if built {
            return anyhow!("device {name}:{ordinal} is not there: use --device cpu");
        }
        anyhow!("device {name} is not in this build: build with --features {feature}, or use --device cpu")
    };
    let (cuda, metal) = (candle_core::utils::cuda_is_available(), candle_core::utils::metal_is_available());
    match spec {
        DeviceSpec::Auto if cuda => Ok(Device::new_cuda(0).unwrap_or(Device::Cpu)),
        DeviceSpec::Auto if metal => Ok(Device::new_metal(0).unwrap_or(Device::Cpu)),
        DeviceSpec::Auto | DeviceSpec::Cpu => Ok(Device::Cpu),
        DeviceSpec::Cuda(ordinal) => Device::new_cuda(ordinal).map_err(|_| absent("cuda", ordinal, "cuda", cuda)),
        DeviceSpec::Metal(ordinal) => Device::new_metal(ordinal).map_err(|_| absent("metal", ordinal, "metal", metal)),
    }
}

/// The kernel of a name, if it can be had there.
pub(super) fn attention(asked: Attention, place: KernelTarget) -> Result<Kernel> {
    let kernel = match asked {
        Attention::Auto => return Ok(Kernel::auto(place)),
        Attention::Flash3 => Kernel::Flash3,
        Attention::Flash2 => Kernel::Flash2,
        Attention::Sdpa => Kernel::Sdpa,
        Attention::Math => Kernel::Math,
    };
    match kernel.check(place) {
        Ok(()) => Ok(kernel),
        Err(why) => bail!("--attention {asked}: {why}, or use --attention {}", Kernel::auto(place).name()),
    }
}

pub(super) fn threads(asked: Option<usize>) -> Result<usize> {
    match asked {
        None => {
            // the system reads files to say so, and the jobs of a batch ask one after the other
            static ALL: OnceLock<usize> = OnceLock::new();
            Ok(*ALL.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from)))
        }
        Some(threads @ 1..=1024) => Ok(threads),
        Some(threads) => bail!("--threads {threads}: give 1 to 1024"),
    }
}
