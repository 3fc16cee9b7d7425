//! The compiled kernels and what their first lines say.

use candle_core::{DType, Result, bail};

/// One file of `kernels/`: a kernel for a number type, and for attention a size of head.
#[derive(Debug)]
pub struct Ptx {
    pub name: &'static str,
    /// `sm_80` runs on everything from Ampere on, `sm_90a` on Hopper alone.
    pub arch: &'static str,
    pub text: &'static str,
}

/// What a launch needs to know of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts<'a> {
    pub entry: &'a str,
    pub warps: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    blocks: Vec<(&'a str, usize)>,
}

macro_rules! table {
    ($($name:literal $arch:literal)*) => {
        &[$(Ptx { name: $name, arch: $arch, text: include_str!(concat!("kernels/", $name, ".", $arch, ".ptx")) }),*]
    };
}

pub const TABLE: &[Ptx] = table! {
    "attention_64_f16" "sm_80" "attention_64_f16" "sm_90a" "attention_80_f16" "sm_80" "attention_96_f16" "sm_80"
    "attention_128_f16" "sm_80" "attention_128_f16" "sm_90a" "attention_160_f16" "sm_80"
    "attention_64_bf16" "sm_80" "attention_64_bf16" "sm_90a" "attention_80_bf16" "sm_80" "attention_96_bf16" "sm_80"
    "attention_128_bf16" "sm_80" "attention_128_bf16" "sm_90a" "attention_160_bf16" "sm_80"
    "probe_f16" "sm_80" "probe_bf16" "sm_80"
    "layer_norm_modulate_f16" "sm_80" "layer_norm_modulate_bf16" "sm_80" "layer_norm_modulate_f32" "sm_80"
    "gate_residual_f16" "sm_80" "gate_residual_bf16" "sm_80" "gate_residual_f32" "sm_80"
    "bias_gelu_f16" "sm_80" "bias_gelu_bf16" "sm_80" "bias_gelu_f32" "sm_80"
    "qk_norm_rope_64_f16" "sm_80" "qk_norm_rope_64_bf16" "sm_80" "qk_norm_rope_64_f32" "sm_80"
    "qk_norm_rope_128_f16" "sm_80" "qk_norm_rope_128_bf16" "sm_80" "qk_norm_rope_128_f32" "sm_80"
    "group_moments_f16" "sm_80" "group_moments_bf16" "sm_80" "group_moments_f32" "sm_80" "group_totals" "sm_80"
    "group_apply_f16" "sm_80" "group_apply_bf16" "sm_80" "group_apply_f32" "sm_80"
    "group_apply_odd_f16" "sm_80" "group_apply_odd_bf16" "sm_80" "group_apply_odd_f32" "sm_80"
};

/// The kernel `name` for a GPU of this compute capability.
pub fn pick(name: &str, capability: (i32, i32)) -> Option<&'static Ptx> {
    let of = |arch: &str| TABLE.iter().find(|ptx| ptx.name == name && ptx.arch == arch);
    match capability {
        (9, 0) => of("sm_90a").or_else(|| of("sm_80")),
        (8.., _) => of("sm_80"),
        _ => None,
    }
}

/// As the names of kernels have it.
pub fn suffix(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F16 => Some("f16"),
        DType::BF16 => Some("bf16"),
        DType::F32 => Some("f32"),
        _ => None,
    }
}

impl Ptx {
    /// The module's name on a device.
    pub fn module(&self) -> String {
        format!("vidgen.{}.{}", self.name, self.arch)
    }

    /// From the first line, which `generate.py` writes.
    pub fn facts(&self) -> Result<Facts<'static>> {
        let mut facts = Facts { entry: "", warps: 0, shared: 0, blocks: Vec::new() };
        let line = self.text.lines().next().unwrap_or_default();
        for (key, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            match (key, value.parse()) {
                ("entry", _) => facts.entry = value,
                ("warps", Ok(warps)) => facts.warps = warps,
                ("shared", Ok(shared)) => facts.shared = shared,
                (_, Ok(size)) => facts.blocks.push((key, size as usize)),
                (_, Err(_)) => bail!("{}: {key} is no number: {value}", self.module()),
            }
        }
        if facts.entry.is_empty() || facts.warps == 0 {
            bail!("{}: the first line does not say how to launch it", self.module())
        }
        Ok(facts)
    }
}

impl Facts<'_> {
    /// A block size by its name in the kernel.
    pub fn block(&self, name: &str) -> Result<usize> {
        match self.blocks.iter().find(|(key, _)| *key == name) {
            Some((_, size)) => Ok(*size),
            None => bail!("kernel {} has no {name}", self.entry),
        }
    }
}
