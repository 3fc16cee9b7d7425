//! Devices that a run may use.

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
        let found: Vec<Device> = (0..64).map_while(|ordinal| built.then(|| open(ordinal).ok()).flatten()).collect();
        let available = !found.is_empty();
        let info = |name: String, detail: String| DeviceInfo { name, built, available, detail };
        if !built {
            return vec![info(kind.to_owned(), format!("not in this build: build with --features {kind}"))];
        }
        if let Some(error) = open(0).err().filter(|_| !available) {
            return vec![info(kind.to_owned(), format!("in this build, but no device answers: {}", reason(&error)))];
        }
        let devices = found.iter().enumerate();
        devices
            .map(|(ordinal, device)| {
                let detail = nn::check::describe(device).unwrap_or_else(|| "answers".to_owned());
                info(format!("{kind}:{ordinal}"), detail)
            })
            .collect()
    });
    std::iter::once(cpu).chain(others).collect()
}

/// Why no device can be used, in one line.
fn reason(error: &candle_core::Error) -> String {
    let text = error.to_string().to_ascii_lowercase();
    let line = || error.to_string().lines().next().unwrap_or_default().to_owned();
    match ["cublas", "curand", "nvrtc"].iter().find(|library| text.contains(**library)) {
        Some(library) => format!("lib{library} is missing or does not fit: put CUDA's libraries on LD_LIBRARY_PATH"),
        None if text.contains("no_device") => "no NVIDIA driver (libcuda.so.1), or no GPU".to_owned(),
        None if text.contains("ptx") => format!("the driver is older than the CUDA toolkit of this build: {}", line()),
        None => line(),
    }
}

/// Compares what a device of [`devices`] computes with the CPU; none for one that is not there. The worst of what is
/// close, or what is not.
pub fn check(name: &str) -> Option<std::result::Result<f64, String>> {
    let (kind, ordinal) = name.split_once(':')?;
    let ordinal = ordinal.parse().ok()?;
    let device = match kind {
        "cuda" => Device::new_cuda(ordinal),
        "metal" => Device::new_metal(ordinal),
        _ => return None,
    };
    let checked = match device.and_then(|device| nn::check::check(&device)) {
        Ok(checked) => checked,
        Err(error) => return Some(Err(error.to_string().lines().next().unwrap_or_default().to_owned())),
    };
    let wrong: Vec<String> = checked
        .iter()
        .filter(|one| !one.is_close())
        .map(|one| format!("{} is {:.1e} from the CPU's", one.what, one.distance))
        .collect();
    if !wrong.is_empty() {
        return Some(Err(wrong.join("; ")));
    }
    Some(Ok(checked.iter().map(|one| one.distance / one.limit).fold(0.0, f64::max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let of = |text: &str| reason(&candle_core::Error::Msg(text.to_owned()));
        assert!(of("DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device\")").contains("driver"));
        assert!(of("CublasError(CUBLAS_STATUS_NOT_INITIALIZED)").contains("libcublas"));
        assert!(of("DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, \"..\")").contains("older"));
        assert_eq!(of("another\nand its trace"), "another");
        assert!(check("cpu").is_none() && check("cuda:x").is_none());
    }
}
