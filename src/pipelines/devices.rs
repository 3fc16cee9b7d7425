//! What there is to compute with.

use crate::nn;
use candle_core::Device;
use serde::Serialize;

/// A device that a run may use, or why it may not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceInfo {
    /// As `--device` takes it.
    pub name: String,
    /// Whether this build has its code.
    pub built: bool,
    pub available: bool,
    /// The instruction set of the kernels, or what is missing.
    pub detail: String,
}

/// Every kind of device that vidgen knows; several of a kind each on their own.
pub fn devices() -> Vec<DeviceInfo> {
    let cpu = DeviceInfo {
        name: "cpu".to_owned(),
        built: true,
        available: true,
        detail: format!("{}, kernels for {}", std::env::consts::ARCH, nn::instructions()),
    };
    let kinds = [
        ("cuda", candle_core::utils::cuda_is_available(), Device::new_cuda as fn(usize) -> candle_core::Result<Device>),
        ("metal", candle_core::utils::metal_is_available(), Device::new_metal),
    ];
    let others = kinds.into_iter().flat_map(|(kind, built, open)| {
        // ordinals have no gaps
        let found = (0..64).take_while(|&ordinal| built && open(ordinal).is_ok()).count();
        let info =
            |name: String, detail: &str| DeviceInfo { name, built, available: found > 0, detail: detail.to_owned() };
        match (built, found) {
            (false, _) => vec![info(kind.to_owned(), &format!("not in this build: build with --features {kind}"))],
            (true, 0) => vec![info(kind.to_owned(), "in this build, but no device answers")],
            (true, found) => (0..found).map(|ordinal| info(format!("{kind}:{ordinal}"), "answers")).collect(),
        }
    });
    std::iter::once(cpu).chain(others).collect()
}
