//! Which kernel computes attention, and what each needs.

use candle_core::{DType, Device};

/// A kernel of [`super::sdpa::Sdpa`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kernel {
    /// FlashAttention-3 (Hopper; feature `flash-attn-v3`), for what needs values alone.
    Flash3,
    /// FlashAttention-2 (Ampere and newer; feature `flash-attn`), for what needs values alone.
    Flash2,
    /// This program's own, where it can take the tensors.
    #[default]
    Sdpa,
    /// The plain version: scores, softmax and product one after the other.
    Math,
}

/// Where attention is computed and on what.
#[derive(Debug, Clone, Copy)]
pub struct KernelTarget<'a> {
    pub device: &'a Device,
    pub dtype: DType,
    /// Numbers of one head.
    pub head: usize,
}

impl Kernel {
    /// Without a request. The order is fixed, not measured in every run: two runs of one build on one GPU compute the same.
    pub fn auto(place: KernelTarget) -> Self {
        let order = [Self::Flash3, Self::Flash2, Self::Sdpa];
        order.into_iter().find(|kernel| kernel.check(place).is_ok()).unwrap_or(Self::Math)
    }

    /// As `--attention` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flash3 => "flash3",
            Self::Flash2 => "flash2",
            Self::Sdpa => "sdpa",
            Self::Math => "math",
        }
    }

    /// Why the kernel cannot be had there.
    pub fn check(self, KernelTarget { device, dtype, head }: KernelTarget) -> Result<(), String> {
        let flash = |feature: &str, built: bool, major: std::ops::RangeInclusive<i32>, gpus: &str, heads: &[usize]| {
            let half = matches!(dtype, DType::F16 | DType::BF16);
            if !built {
                Err(format!("is not in this build: build with --features {feature}"))
            } else if !major.contains(&capability(device)) {
                Err(format!("needs {gpus}"))
            } else if !half {
                Err(format!("computes in f16 and bf16, not in {}: add --dtype bf16", dtype.as_str()))
            } else if !(heads.contains(&head) || heads.is_empty() && head.is_multiple_of(8) && head <= 512) {
                Err(format!("has no kernel for heads of {head}"))
            } else {
                Ok(())
            }
        };
        match self {
            Self::Flash3 => {
                flash("flash-attn-v3", cfg!(feature = "flash-attn-v3"), 9..=9, "a Hopper GPU", &[64, 128, 256, 512])
            }
            Self::Flash2 => {
                flash("flash-attn", cfg!(feature = "flash-attn"), 8..=i32::MAX, "a GPU of Ampere or newer", &[])
            }
            Self::Sdpa => match device {
                Device::Cpu if dtype == DType::F32 => Ok(()),
                Device::Cpu => Err(format!("computes in f32 on the CPU, not in {}", dtype.as_str())),
                Device::Cuda(_) if capability(device) < 8 => Err("needs a GPU of Ampere or newer".to_owned()),
                Device::Cuda(_) if dtype == DType::F32 => {
                    Err("computes in f16 and bf16 on a GPU, not in f32: add --dtype bf16".to_owned())
                }
                Device::Cuda(_) if !head.is_multiple_of(8) || head > 160 => {
                    Err(format!("has no kernel for heads of {head}"))
                }
                Device::Cuda(_) => Ok(()),
                Device::Metal(_) => Err("does not exist on Metal".to_owned()),
            },
            Self::Math => Ok(()),
        }
    }
}

/// Major compute capability; 0 where there is none.
fn capability(device: &Device) -> i32 {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return gpu.cuda_stream().context().compute_capability().map_or(0, |(major, _)| major);
    }
    let _ = device;
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_has_its_own_kernel_in_f32() {
        let place = |dtype| KernelTarget { device: &Device::Cpu, dtype, head: 64 };
        assert_eq!(Kernel::auto(place(DType::F32)), Kernel::Sdpa);
        assert_eq!(Kernel::auto(place(DType::BF16)), Kernel::Math);
        assert!(Kernel::Sdpa.check(place(DType::F16)).unwrap_err().contains("f16"));
        assert!(Kernel::Math.check(place(DType::F16)).is_ok());
        for kernel in [Kernel::Flash2, Kernel::Flash3] {
            let why = kernel.check(place(DType::BF16)).unwrap_err();
            assert!(why.contains("flash-attn") || why.contains("GPU"), "{why}");
        }
    }
}
