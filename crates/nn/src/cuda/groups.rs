//! Launches of group norm: the moments of pieces, those of the groups from them, and the result.

use super::launch::{Arg, Capability, EIGHT, Launch, grid, i32s, kernel, whole};
use super::ptx::pick;
use candle_core::{DType, Result, Tensor};

/// Group norm of a `[T, C, H, W]` over all frames together.
#[derive(Debug, Clone, Copy)]
pub struct Groups<'a> {
    pub groups: usize,
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub eps: f64,
    pub silu: bool,
    /// Scale and shift `[f, C, h, w]`, and for each frame of the input the frame that it reads.
    pub condition: Option<(&'a Tensor, &'a Tensor, &'a [u32])>,
}

impl Groups<'_> {
    /// Whether the kernels can take it.
    fn fits(&self, x: &Tensor) -> bool {
        let &[t, c, h, w] = x.dims() else { return false };
        let affine = [self.weight, self.bias].iter().all(|affine| affine.dims() == [c] && affine.dtype() == x.dtype());
        let even = self.groups > 0 && c.is_multiple_of(self.groups);
        let condition = self.condition.is_none_or(|(scale, shift, frames)| {
            let &[known, channels, rows, columns] = scale.dims() else { return false };
            let alike = [scale, shift].iter().all(|map| map.dims() == scale.dims() && map.dtype() == x.dtype());
            let cells = rows > 0 && columns > 0 && h.is_multiple_of(rows) && w.is_multiple_of(columns);
            let inside = frames.len() == t && frames.iter().all(|&frame| (frame as usize) < known);
            alike && channels == c && cells && inside && i32s([rows * columns]).is_some()
        });
        affine && even && condition && x.elem_count() > 0 && (c / self.groups * h * w).is_multiple_of(EIGHT)
    }

    /// `[groups, T * pieces, 2]` from `x`.
    pub fn moments(&self, capability: Capability, x: &Tensor) -> Result<Option<Launch>> {
        if !self.fits(x) {
            return Ok(None);
        }
        let (t, c, h, w) = x.dims4()?;
        let Some((ptx, facts)) = kernel("group_moments", x.dtype(), capability)? else { return Ok(None) };
        let size = c / self.groups * h * w;
        let pieces = size.div_ceil(facts.block("PIECE")?);
        let (Some(grid), Some(sizes)) = (grid(pieces, t, self.groups), i32s([size, pieces, self.groups])) else {
            return Ok(None);
        };
        let mut args = vec![Arg::Input(0), Arg::Output(0)];
        args.extend(sizes);
        let outputs = vec![(DType::F32, vec![self.groups, t * pieces, 2])];
        Ok(Some(Launch { ptx, grid, args, inputs: vec![whole(x)?], outputs }))
    }

    /// `[groups, 2]`, mean and inverse deviation, from the moments of `x`.
    pub fn totals(&self, capability: Capability, x: &Tensor, moments: Tensor) -> Result<Option<Launch>> {
        let (t, c, h, w) = x.dims4()?;
        let Some(ptx) = pick("group_totals", capability)? else { return Ok(None) };
        let sizes = i32s([c / self.groups * h * w, moments.dim(1)? / t, t]);
        let (Some(grid), Some(sizes)) = (grid(self.groups, 1, 1), sizes) else { return Ok(None) };
        let mut args = vec![Arg::Input(0), Arg::Output(0)];
        args.extend(sizes);
        args.push(Arg::F32(self.eps as f32));
        Ok(Some(Launch { ptx, grid, args, inputs: vec![moments], outputs: vec![(DType::F32, vec![self.groups, 2])] }))
    }

    /// The result from `x` and its totals.
    pub fn apply(&self, capability: Capability, x: &Tensor, totals: Tensor) -> Result<Option<Launch>> {
        let (t, c, h, w) = x.dims4()?;
        let stem = if (h * w).is_multiple_of(EIGHT) { "group_apply" } else { "group_apply_odd" };
        let Some((ptx, facts)) = kernel(stem, x.dtype(), capability)? else { return Ok(None) };
        let mut inputs = vec![whole(x)?, totals, whole(self.weight)?, whole(self.bias)?];
        let mut args: Vec<Arg> = (0..4).map(Arg::Input).collect();
        let mut cells = (1, 1);
        match self.condition {
            Some((scale, shift, frames)) => {
                cells = (scale.dim(2)?, scale.dim(3)?);
                inputs.extend([whole(scale)?, whole(shift)?, Tensor::new(frames, x.device())?]);
                args.extend((4..7).map(Arg::Input));
            }
            None => args.extend([Arg::Input(0); 3]), // not read
        }
        args.push(Arg::Output(0));
        let flags = [usize::from(self.silu), usize::from(self.condition.is_some())];
        let sizes = i32s([c, c / self.groups, h * w, h, w, cells.0, cells.1, flags[0], flags[1]]);
        let blocks = grid(t * c, (h * w).div_ceil(facts.block("BLOCK")?), 1);
        let (Some(grid), Some(sizes)) = (blocks, sizes) else { return Ok(None) };
        args.extend(sizes);
        Ok(Some(Launch { ptx, grid, args, inputs, outputs: vec![(x.dtype(), x.dims().to_vec())] }))
    }
}
