//! Blocks of a product with the tile registers of AMX (Intel, from Sapphire Rapids on): a step is two tiles of rows, two of
//! weights, and four of sums.

use super::{SIDE, Step, Sums};
use half::bf16;
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Shapes of the eight tiles: palette 1, each of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (64, 16);
        tile += 1;
    }
    Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Whether the CPU has them and the operating system enables them.
pub(super) fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| has_tiles() && allowed())
}

/// Leaf 7 of CPUID: AMX-BF16 and AMX-TILE.
fn has_tiles() -> bool {
    const WANTED: u32 = 1 << 22 | 1 << 24;
    // Leaf 0 says how many leaves there are.
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED
}

/// Linux saves tiles only for processes that have asked (`ARCH_REQ_XCOMP_PERM`, since 5.16); all threads are then free to use
/// them.
fn allowed() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of this process.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// tmm0..3 are the sums, 4 and 5 the rows, 6 and 7 the weights of a step. Shapes and tiles are given back at the end: a thread
/// that holds some costs the system eight kilobytes at every switch.
///
/// # Safety
/// As [`super::Block`]; [`is_here`] must have said so.
pub(super) unsafe fn block(rows: *const bf16, pitch: usize, _live: usize, steps: &[Step], sums: &mut Sums) {
    let sums = sums.0.as_mut_ptr().cast::<f32>();
    // SAFETY: reads SIDE rows of the steps' length and the steps, writes the sums; no other code uses tile registers.
    unsafe {
        asm!(
            "ldtilecfg [{shapes}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {count}, {count}",
            "jz 3f",
            "2:",
            "tileloadd tmm6, [{weights} + {two_lines}]",
            "tileloadd tmm7, [{weights} + {two_lines} + 64]",
            "tileloadd tmm4, [{upper} + {pitch}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + {pitch}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {weights}, {step}",
            "dec {count}",
            "jnz 2b",
            "3:",
            "tilestored [{sums} + {two_lines}], tmm0",
            "tilestored [{sums} + {two_lines} + 64], tmm1",
            "tilestored [{sums} + {two_lines} + {half}], tmm2",
            "tilestored [{sums} + {two_lines} + {half} + 64], tmm3",
            "tilerelease",
            shapes = in(reg) &raw const SHAPES,
            count = inout(reg) steps.len() => _,
            weights = inout(reg) steps.as_ptr() => _,
            upper = inout(reg) rows => _,
            lower = inout(reg) rows.wrapping_add(SIDE / 2 * pitch) => _,
            pitch = in(reg) 2 * pitch,
            two_lines = in(reg) 128_usize,
            sums = in(reg) sums,
            step = const size_of::<Step>(),
            half = const size_of::<Sums>() / 2,
            options(nostack),
        );
    }
}
