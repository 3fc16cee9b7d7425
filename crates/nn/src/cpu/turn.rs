//! Rows as columns, in blocks that fill cache lines on both sides.

use super::{Target, filled};
use rayon::prelude::*;

/// Side of a block: numbers of a cache line.
const SIDE: usize = 16;
/// Numbers of one task.
const TASK: usize = 1 << 15;

/// `x` `[batch, rows, columns]` as `[batch, columns, rows]`.
pub fn run(x: &[f32], (batch, rows, columns): (usize, usize, usize)) -> Vec<f32> {
    assert_eq!(x.len(), batch * rows * columns);
    if x.is_empty() {
        return Vec::new();
    }
    let bands = columns.div_ceil(SIDE);
    let run = |target: Target| {
        (0..batch * bands).into_par_iter().with_min_len((TASK / (SIDE * rows)).max(1)).for_each(|task| {
            let (of, first) = (task / bands, task % bands * SIDE);
            let count = SIDE.min(columns - first);
            let from = &x[of * rows * columns..][..rows * columns];
            // SAFETY: a band of columns has rows of the result for itself.
            let to = unsafe { target.part((of * columns + first) * rows, count * rows) };
            let mut block = [0.0f32; SIDE * SIDE];
            for start in (0..rows).step_by(SIDE) {
                let high = SIDE.min(rows - start);
                for row in 0..high {
                    let line = &from[(start + row) * columns + first..][..count];
                    line.iter().enumerate().for_each(|(i, &number)| block[i * SIDE + row] = number);
                }
                // whole lines at once: those of sixteen rows may have one place in the cache
                for (i, line) in block.chunks_exact(SIDE).take(count).enumerate() {
                    let to = &mut to[i * rows + start..][..high];
                    to.iter_mut().zip(line).for_each(|(to, &number)| _ = to.write(number));
                }
            }
        });
    };
    // SAFETY: the bands cover the columns, and a band writes all rows of its columns.
    unsafe { filled(x.len(), run) }
}
