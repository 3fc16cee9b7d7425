//! The compiled kernels and what their first lines say.

use candle_core::{DType, Result, bail};
use flate2::read::GzDecoder;
use std::io::Read;
use std::sync::OnceLock;
use tar::Archive;

/// `NAME.ARCH.ptx` for each kernel and number type, and for attention each size of head; `kernels/generate.py` writes it.
static ARCHIVE: &[u8] = include_bytes!("kernels/ptx.tar.gz");

/// One file of the archive.
#[derive(Debug)]
pub struct Ptx {
    pub name: String,
    /// `sm_80` runs on everything from Ampere on, `sm_90a` on Hopper alone.
    pub arch: String,
    pub text: String,
}

/// What a launch needs to know of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo<'a> {
    pub entry: &'a str,
    pub warps: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    blocks: Vec<(&'a str, usize)>,
}

/// All kernels, unpacked when the first of them is asked for.
pub fn table() -> Result<&'static [Ptx]> {
    static TABLE: OnceLock<Vec<Ptx>> = OnceLock::new();
    if let Some(table) = TABLE.get() {
        return Ok(table);
    }
    let mut table = Vec::new();
    for file in Archive::new(GzDecoder::new(ARCHIVE)).entries()? {
        let mut file = file?;
        let path = file.path()?.to_string_lossy().into_owned();
        let Some((name, arch)) = path.strip_suffix(".ptx").and_then(|stem| stem.split_once('.')) else {
            bail!("{path} is not NAME.ARCH.ptx")
        };
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        table.push(Ptx { name: name.to_owned(), arch: arch.to_owned(), text });
    }
    Ok(TABLE.get_or_init(|| table))
}

/// The kernel `name` for a GPU of this compute capability.
pub fn pick(name: &str, capability: (i32, i32)) -> Result<Option<&'static Ptx>> {
    let table = table()?;
    let of = |arch: &str| table.iter().find(|ptx| ptx.name == name && ptx.arch == arch);
    Ok(match capability {
        (9, 0) => of("sm_90a").or_else(|| of("sm_80")),
        (8.., _) => of("sm_80"),
        _ => None,
    })
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
    pub fn facts(&self) -> Result<KernelInfo<'_>> {
        let mut facts = KernelInfo { entry: "", warps: 0, shared: 0, blocks: Vec::new() };
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

impl KernelInfo<'_> {
    /// A block size by its name in the kernel.
    pub fn block(&self, name: &str) -> Result<usize> {
        match self.blocks.iter().find(|(key, _)| *key == name) {
            Some((_, size)) => Ok(*size),
            None => bail!("kernel {} has no {name}", self.entry),
        }
    }
}
